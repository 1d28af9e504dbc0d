// An OpenID provider with one client for each tenant, which gets its tokens by its own secret.
//
// Options as JSON on standard input: { port, audience, algorithm, clients: { NAME: { secret, claims } } }.
// Says {"issuer": ...} on standard output once it listens.
import { generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { Provider } from 'oidc-provider';

const options = JSON.parse(readFileSync(0, 'utf8'));
const issuer = `http://127.0.0.1:${options.port}`;
const kinds = {
  RS256: ['rsa', { modulusLength: 2048 }],
  ES256: ['ec', { namedCurve: 'P-256' }],
  Ed25519: ['ed25519', {}],
};

function key(algorithm, kid) {
  const [kind, parameters] = kinds[algorithm];
  const { privateKey } = generateKeyPairSync(kind, parameters);
  return { ...privateKey.export({ format: 'jwk' }), kid, use: 'sig', alg: algorithm };
}

const resource = {
  audience: options.audience,
  scope: 'commands:read commands:write openid',
  accessTokenFormat: 'jwt',
  accessTokenTTL: 600,
  jwt: { sign: { alg: options.algorithm } },
};
const provider = new Provider(issuer, {
  clients: Object.entries(options.clients).map(([name, { secret }]) => ({
    client_id: name,
    client_secret: secret,
    grant_types: ['client_credentials'],
    redirect_uris: [],
    response_types: [],
  })),
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => 'urn:outhaul:test',
      useGrantedResource: () => true,
      getResourceServerInfo: () => resource,
    },
  },
  extraTokenClaims: (ctx, token) => options.clients[token.clientId].claims,
  enabledJWA: { idTokenSigningAlgValues: ['RS256', 'ES256', 'Ed25519'] },
  jwks: { keys: [...new Set(['RS256', options.algorithm])].map((name) => key(name, `key-${name}`)) },
  scopes: ['openid', 'commands:read', 'commands:write'],
});
provider.listen(options.port, '127.0.0.1', () => console.log(JSON.stringify({ issuer })));

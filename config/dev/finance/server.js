// A small SOAP finance service, as a legacy ERP has one: for the demo and the tests.
//
//   node server.js '{"port": 8088, "auth": "basic", "username": "svc", "password": "secret"}'
//
// Options: port (0: a free one), auth (none, basic, digest, wsse), username, password,
// tls {cert, key, ca}: PEM texts; with ca a client certificate of it is wanted.
// They come on standard input when no argument is given, so that no password stands in a process list.
// When it is ready it prints one line of JSON: {"ready": true, "port": N}.
// GET /posted lists the invoices and entries that it holds, as the truth for tests.
'use strict';

const crypto = require('crypto');
const fs = require('fs');
const http = require('http');
const https = require('https');
const path = require('path');
const soap = require('soap');

const options = JSON.parse(process.argv[2] || fs.readFileSync(0, 'utf8') || '{}');
const posted = []; // invoices, in the order they came
const entries = [];
const nonces = new Set(); // of digest challenges, each good for one answer

const same = (one, other) =>
  crypto.timingSafeEqual(crypto.createHash('sha256').update(String(one)).digest(),
                         crypto.createHash('sha256').update(String(other)).digest());
const md5 = (text) => crypto.createHash('md5').update(text).digest('hex');
const text = (value) => (value && typeof value === 'object' ? value.$value : value);

// Cents as whole numbers: sums of money are not for floating point.
function cents(amount) {
  const [whole, fraction = ''] = String(amount).split('.');
  return BigInt(whole + fraction.padEnd(2, '0').slice(0, 2));
}
function amount(value) {
  const digits = (value < 0n ? -value : value).toString().padStart(3, '0');
  return `${value < 0n ? '-' : ''}${digits.slice(0, -2)}.${digits.slice(-2)}`;
}

function fault(code, reason, detail) {
  return { Fault: { faultcode: code, faultstring: reason, ...(detail ? { detail } : {}) } };
}

const finance = {
  FinanceService: {
    FinancePort: {
      PostInvoice(invoice) {
        const due = invoice.dueDate instanceof Date ? invoice.dueDate.toISOString().slice(0, 10) : String(invoice.dueDate);
        if (due < '2020-01-01') {
          throw fault('soap:Server', `The period ${due.slice(0, 7)} is closed.`, {
            PeriodClosed: { attributes: { xmlns: 'urn:example:finance' }, period: due.slice(0, 7) },
          });
        }
        posted.push({ ...invoice, dueDate: due });
        return { documentNo: String(4900000000 + posted.length), total: invoice.amount, postedAt: new Date().toISOString() };
      },
      FindInvoice({ invoiceNo }) {
        const index = posted.findIndex((invoice) => invoice.invoiceNo === invoiceNo);
        return index < 0 ? { found: false } : { found: true, documentNo: String(4900000001 + index), invoice: posted[index] };
      },
      GetOrders({ customer, count }) {
        const many = count === undefined ? 3 : Number(count);
        return { order: Array.from({ length: many }, (_, i) => ({ orderNo: `${customer}-${i + 1}`, total: `${i + 1}.50` })) };
      },
      GetSlowly({ seconds }, callback) {
        setTimeout(() => callback({ waited: seconds }), Number(seconds) * 1000);
      },
      GetBalance() {
        return { $value: amount(posted.reduce((sum, invoice) => sum + cents(invoice.amount), 0n)) };
      },
      SaveCostCentre(centre) {
        return centre;
      },
      Fail({ how }, callback, headers, request, response) {
        if (how === 'client') throw fault('soap:Client', 'The request makes no sense.');
        if (how === 'server') throw fault('soap:Server', 'The database is gone.');
        if (how === 'own') throw fault('BUDGET_EXCEEDED', 'The budget is used up.');
        response.destroy(); // the connection breaks after the request was read
      },
    },
  },
};

const ledger = {
  LedgerService: {
    LedgerPort: {
      AddEntry({ account, amount: value }) {
        entries.push({ account: text(account), amount: String(text(value)) });
        return { entries: entries.length, balance: amount(entries.reduce((sum, entry) => sum + cents(entry.amount), 0n)) };
      },
    },
  },
};

// --- who may come in -----------------------------------------------------------------------------

function basicFits(header) {
  const expected = Buffer.from(`${options.username}:${options.password}`).toString('base64');
  return same(header || '', `Basic ${expected}`);
}

function digestFits(header, method) {
  const fields = {};
  for (const match of (header || '').matchAll(/(\w+)=(?:"([^"]*)"|([^\s,]+))/g)) fields[match[1]] = match[2] ?? match[3];
  if (!nonces.delete(fields.nonce)) return false;
  const who = md5(`${options.username}:finance:${options.password}`);
  const what = md5(`${method}:${fields.uri}`);
  return same(fields.response, md5(`${who}:${fields.nonce}:${fields.nc}:${fields.cnonce}:auth:${what}`));
}

function mayEnter(request, response) {
  const header = request.headers.authorization;
  if (options.auth === 'basic' && !basicFits(header)) {
    response.writeHead(401, { 'WWW-Authenticate': 'Basic realm="finance"' });
    return false;
  }
  if (options.auth === 'digest' && !digestFits(header, request.method)) {
    const nonce = crypto.randomBytes(16).toString('hex');
    nonces.add(nonce);
    response.writeHead(401, { 'WWW-Authenticate': `Digest realm="finance", qop="auth", nonce="${nonce}", algorithm=MD5` });
    return false;
  }
  return true;
}

function tokenFits(security) {
  const token = security && security.UsernameToken;
  if (!token || text(token.Username) !== options.username) return false;
  const password = text(token.Password);
  const kind = (token.Password && token.Password.attributes && token.Password.attributes.Type) || '';
  if (!kind.endsWith('#PasswordDigest')) return same(password, options.password);
  const digest = crypto.createHash('sha1')
    .update(Buffer.from(text(token.Nonce), 'base64')).update(String(text(token.Created))).update(options.password)
    .digest('base64');
  return same(password, digest);
}

// --- the server ----------------------------------------------------------------------------------

function other(request, response) {
  if (request.url === '/posted') {
    response.writeHead(200, { 'Content-Type': 'application/json' });
    response.end(JSON.stringify({ invoices: posted, entries }));
  } else {
    response.writeHead(404).end('there is nothing here');
  }
}

const tls = options.tls && {
  cert: options.tls.cert, key: options.tls.key, ca: options.tls.ca,
  requestCert: Boolean(options.tls.ca), rejectUnauthorized: Boolean(options.tls.ca),
};
const server = tls ? https.createServer(tls, other) : http.createServer(other);

server.listen(Number(options.port || 0), '127.0.0.1', () => {
  for (const [url, service, file] of [['/finance', finance, 'finance.wsdl'], ['/ledger', ledger, 'ledger.wsdl']]) {
    const listener = soap.listen(server, url, service, fs.readFileSync(path.join(__dirname, file), 'utf8'));
    // Each listener is asked for every request, and a nonce is good only once.
    listener.authorizeConnection = (request, response) =>
      request.url.split('?')[0] !== url || mayEnter(request, response);
    if (options.auth === 'wsse') listener.authenticate = tokenFits;
  }
  console.log(JSON.stringify({ ready: true, port: server.address().port }));
});

"""``--seal`` and what belongs to it: whose key is taken, where one's own is kept, how the result is read later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloud_broker.client import known_agents
from cloud_broker.client.call import tell
from cloud_broker.client.errors import WordsError

if TYPE_CHECKING:
    from cloud_broker.client.api import Outhaul
    from cloud_broker.client.sealing import SealedCall


@dataclass(frozen=True, slots=True)
class Sealing:
    """
    What the words of a call say about sealing.

    Attributes:
        key_file: where what reads the result is kept.
        agent_keys: the only ones that are taken for the agent's.
        repeats: whether it may be a call that was made before.
        leaves: whether nobody here waits for the result.
    """

    wanted: bool
    key_file: Path | None
    agent_keys: str | None
    repeats: bool
    leaves: bool

    def call(self, client: Outhaul, agent: str | None, operation: str, params: Mapping[str, Any]) -> SealedCall | None:
        """
        Return the sealed call, kept if that was asked for; ``None`` if nothing is to be sealed.

        Raises:
            WordsError: the words do not fit together, or the file is another call's.
        """
        if not self.wanted:
            return None
        if agent is None:
            raise WordsError("--seal: what is sealed is sealed to one agent's key: name the agent instead of --group")
        if self.leaves and self.key_file is None:
            raise WordsError("--seal: with --no-wait nobody could ever read the result: add --seal-key FILE")
        # Deferred: what seals is large, and most calls seal nothing.
        from cloud_broker.client.requests import encoded
        from cloud_broker.client.sealing import SealedCall

        if self.key_file is not None and self.key_file.exists():
            return self._again(SealedCall.kept(self.key_file), agent, operation, encoded(dict(params)))
        sealed = client.seal(agent, operation, params, agent_key=self._agent_key(client, agent))
        if self.key_file is not None:
            sealed.keep(self.key_file)
        return sealed

    def _again(self, kept: SealedCall, agent: str, operation: str, params: bytes) -> SealedCall:
        if not self.repeats:
            raise WordsError(
                f"--seal-key: {self.key_file} is there already, and each call wants a key of its own: name another "
                "file. To repeat the very same call, give its --idempotency-key too"
            )
        if not kept.asks(agent, operation, params):
            raise WordsError(f"--seal-key: {self.key_file} is of another call, of {kept.operation} on {kept.agent}")
        return kept

    def _agent_key(self, client: Outhaul, agent: str) -> str:
        if self.agent_keys is not None:
            key = known_agents.given(self.agent_keys).get("seal")
            if key is None:
                raise WordsError("--agent-keys: sealing wants the agent's key that begins with x25519:")
            return key
        _, key, new_in = client.agent_seal_key(agent)
        if new_in is not None:
            tell(
                f"{agent} was never seen before: its keys are kept in {new_in}. Only the broker says that they are its "
                f"own: compare `outhaul agents {agent}` with `outhaul-agent identity` on its machine"
            )
        return key

    def tell_how_to_read(self, command_id: str | None) -> None:
        """Tell how a result is read later that was not read now."""
        if not self.wanted:
            return
        if self.key_file is None:
            tell("what reads its result was not kept, and is gone with this program: --seal-key FILE keeps it")
        elif command_id is not None:
            tell(f"its result is read with: outhaul commands rows {command_id} --seal-key {self.key_file}")
        else:
            tell(f"repeat the call with --seal-key {self.key_file} too")

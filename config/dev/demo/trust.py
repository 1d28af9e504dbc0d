"""The steps of the demo about those who are not trusted: the broker above all."""

from __future__ import annotations

from typing import Final

from config.dev.demo.erp import Erp
from config.dev.demo.pair import AGENT, Pair
from config.dev.demo.programs import run
from config.dev.demo.story import Story, want

CUSTOMER: Final = "C042"


def signed(pair: Pair, erp: Erp, story: Story) -> None:
    """What the operator's file wants signed runs only so."""
    story.says("A credit limit is for the head office to change. Somebody who has a key of the broker tries it.")
    words = ["call", AGENT, "set-credit-limit", f"customer={CUSTOMER}", "limit=250000.00"]
    before = erp.value("SELECT credit_limit FROM customers WHERE customer_no = ?", CUSTOMER)
    answer = pair.outhaul(story, *words)
    want(answer.exit_code == 1 and "signature" in answer.err, f"wants a refusal, found {answer.err!r}")
    after = erp.value("SELECT credit_limit FROM customers WHERE customer_no = ?", CUSTOMER)
    want(before == after, f"the limit was {before} and is {after}")
    story.says("The agent refused it: the broker could not have it run either. Now the head office signs.")
    answer = pair.outhaul(story, *words, "--sign-with", str(pair.head_office))
    want(answer.exit_code == 0, f"wants exit code 0, found {answer.exit_code}: {answer.err}")
    after = erp.value("SELECT credit_limit FROM customers WHERE customer_no = ?", CUSTOMER)
    want(str(after) == "250000.00", f"the limit is {after}")
    story.proves(f"unsigned it stayed {before}; signed by the head office the ERP has {after}")


def sealed(pair: Pair, erp: Erp, story: Story) -> None:
    """Neither parameters nor result are anywhere at the broker."""
    story.says("Bank details are the caller's alone: the command is sealed to the agent, and its result to the caller.")
    iban = str(erp.value("SELECT iban FROM customers WHERE customer_no = ?", CUSTOMER))
    answer = pair.outhaul(story, "call", AGENT, "bank-details", f"customer={CUSTOMER}", "--seal")
    want(answer.exit_code == 0 and iban in answer.out, f"wants {iban}, found {answer.text!r}")
    places = [path for path in (pair.folder / "broker").rglob("*") if path.is_file()]
    places.append(pair.broker.log)
    found = [path.name for path in places if iban.encode() in path.read_bytes()]
    want(not found, f"the IBAN stands in {found}")
    story.proves(f"the caller has {iban}; in {len(places)} files of the broker it is nowhere")


def chained(pair: Pair, erp: Erp, story: Story) -> None:
    """Both memories are chains, and each keeps the other's head."""
    story.says("Who did what? Both sides keep a chain of records, and each keeps where the other's stood.")
    for words, file in (
        (["outhaul-broker", "verify-audit"], pair.folder / "broker" / "broker.toml"),
        (["outhaul-agent", "journal", "verify"], pair.folder / "agent" / "agent.toml"),
    ):
        story.asks(words)
        answer = run([*words, "--config", str(file)])
        story.answers(answer.text)
        want(answer.exit_code == 0, f"wants exit code 0, found {answer.exit_code}: {answer.err}")
    story.proves("both chains fit, from their first record to their last")

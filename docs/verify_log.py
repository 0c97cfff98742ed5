"""Check a log.json without lepton-fl: python verify_log.py log.json HEX [heads.jsonl]

Written apart from the product, after docs/log.md alone. HEX is the log's public key, `log_key` of every contract;
heads.jsonl is what an institution kept. Exit 0: good; 1: bad, with the first bad entry. Certificates are not looked at.
"""

import base64
import hashlib
import json
import sys
import urllib.parse
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def sha(data):
    return hashlib.sha256(data).digest()


def root(hashes):
    if len(hashes) < 2:
        return hashes[0] if hashes else sha(b"")
    half = 1 << ((len(hashes) - 1).bit_length() - 1)
    return sha(b"\x01" + root(hashes[:half]) + root(hashes[half:]))


def refuse_unsigned(public, kind, name, note):
    text, lines = note.split("\n\n")
    for dash, who, encoded in (row.split(" ") for row in lines.removesuffix("\n").split("\n")):
        value = base64.b64decode(encoded)
        if not lines.endswith("\n") or base64.b64encode(value).decode() != encoded:
            raise ValueError("another form")
        if (dash, who, value[:4]) == ("\u2014", name, sha(name.encode() + b"\n" + kind + public)[:4]):
            first = f"cosignature/v1\ntime {int.from_bytes(value[4:12], 'big')}\n" if kind == b"\x04" else ""
            return Ed25519PublicKey.from_public_bytes(public).verify(value[-64:], f"{first}{text}\n".encode())
    raise ValueError(name)


def check(content, key, kept):
    log = json.loads(content)
    one_form = json.dumps(log, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    in_hex = "".join(one["key"] for one in log["identities"])
    if one_form != content or log["schema"] != "lepton-fl/log/1" or len(log) != 7 or in_hex != in_hex.lower():
        return None, "the file is not in its one form"
    leaves = [sha(b"\x00" + one.encode()) for one in log["entries"]]
    for index in range(max(len(leaves), len(log["leaves"]))):
        if [one.hex() for one in leaves[index : index + 1]] != log["leaves"][index : index + 1]:
            return index, "this is not the entry that was hashed"
    entries = [json.loads(one) for one in log["entries"]]
    keys = [(i, bytes.fromhex(one["fields"]["key"])) for i, one in enumerate(entries) if one["kind"] == "log-key"]
    contracts = {hashlib.sha256(one["contract"].encode()).hexdigest() for one in log["contracts"]}
    if keys[-1][1] != key or contracts != {one["fields"]["contract"] for one in entries if one["kind"] == "run"}:
        return None, "the log's key is not the one that was given, or the contracts are not those of its runs"
    own = {one["institution"]: bytes.fromhex(one["key"]) for one in log["identities"]}
    heads = [("the log's head", None, log["checkpoint"])] + [("a kept head", None, one) for one in kept]
    heads += [("a countersigned head", one["institution"], one["note"]) for one in log["cosigned"]]
    agreeing, differing = [0], []
    for who, institution, note in heads:
        origin, size, claimed = note.split("\n\n")[0].split("\n")
        refuse_unsigned([one for i, one in keys if i < int(size)][-1], b"\x01", origin, note)
        if institution:
            name = "lepton-fl/institution/" + urllib.parse.quote(institution, safe="")
            refuse_unsigned(own[institution], b"\x04", name, note)
        if int(size) > len(leaves) or (note is log["checkpoint"] and int(size) < len(leaves)):
            return min(int(size), len(leaves)), f"the log has {len(leaves)} entries, {who} {size}"
        (agreeing if base64.b64decode(claimed) == root(leaves[: int(size)]) else differing).append(int(size))
    if differing:
        return max(one for one in agreeing if one < min(differing) or not one), "two heads are not of the same log"
    return None, None


if __name__ == "__main__":
    kept = [json.loads(line)["note"] for file in sys.argv[3:] for line in Path(file).read_text().splitlines()]
    try:
        entry, problem = check(Path(sys.argv[1]).read_bytes(), bytes.fromhex(sys.argv[2]), kept)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, InvalidSignature) as error:
        entry, problem = None, f"a part is missing or not signed ({type(error).__name__})"
    sys.exit(f"bad: {'' if entry is None else f'entry {entry}: '}{problem}" if problem else 0)

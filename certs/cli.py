"""`cloister certs`: for whoever keeps the CA. Errors are worded and exit codes set by `runtime.console`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from certs.ca import CertificateAuthority
    from certs.names import PartyId
    from certs.queue import QueuedRequest

app = typer.Typer(help="Keep the federation's certificates.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Ca = Annotated[Path, typer.Option("--ca", help="The CA's folder.")]
Hosts = Annotated[
    list[str] | None,
    typer.Option("--host", help="DNS name or IP address that silos dial; repeatable. If left out: as the last time."),
]
RoleName = Annotated[str, typer.Argument(metavar="ROLE", help="silo, aggregator, coordinator or auditor.")]
PartyName = Annotated[str, typer.Argument(metavar="NAME", help="Such as hospital-a.")]


@app.command()
def init(
    federation: Annotated[str, typer.Argument(help="The federation's name, such as heart-study.")],
    ca: Ca = Path("ca"),
    as_json: Json = False,
) -> None:
    """Found a federation: make its certificate authority."""
    from certs.ca import CertificateAuthority

    authority = CertificateAuthority.create(ca, federation, _now())
    facts = {"federation": authority.federation, "ca": str(ca), "fingerprint": _ca_fingerprint(authority.ca_pem)}
    _emit(facts, f"Federation {federation}: CA in {ca}\nCA fingerprint {facts['fingerprint']}", as_json=as_json)


@app.command()
def issue(
    role: RoleName,
    name: PartyName,
    out: Annotated[Path, typer.Option("--out", help="The party's new folder, on this machine.")],
    ca: Ca = Path("ca"),
    hosts: Hosts = None,
    as_json: Json = False,
) -> None:
    """Make keys and certificates for a party on this machine: the aggregator, the coordinator. Silos enrol by token."""
    from certs.ca import CertificateAuthority
    from certs.wallet import Wallet

    authority, now = CertificateAuthority.load(ca), _now()
    party = _party(authority.federation, role, name)
    wallet = Wallet.create(out, authority.ca_pem, party)
    requests = wallet.requests()
    wallet.install(authority.issue(party, requests.tls, requests.identity, now, hosts or ()), now)
    facts = _wallet_facts(out)
    _emit(facts, _wallet_text(facts), as_json=as_json)


@app.command()
def sign(
    queue: Annotated[Path, typer.Argument(help="The queue folder, carried from an aggregator without the CA key.")],
    ca: Ca = Path("ca"),
    yes: Annotated[bool, typer.Option("--yes", help="Sign everything that waits, without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Work through a queue of requests with a CA that is kept offline. What the CA refuses keeps no other waiting."""
    from certs.ca import CertificateAuthority
    from certs.queue import answer, waiting
    from privacy.errors import ConfigError, Refused

    if as_json and not yes:
        raise ConfigError(
            "signing with --json", "cannot ask", "Look at the queue without --json first, then add --yes."
        )
    authority, signed, refused = CertificateAuthority.load(ca), [], []
    for request in waiting(queue):
        if yes or typer.confirm(f"Sign {_describe(request, authority)}?"):
            try:
                answer(queue, request, authority, _now())
            except Refused as error:
                refused.append(error)
                continue
            signed.append(request.party.uri)
    said = [f"{len(signed)} signed. Carry {queue} back to the aggregator.", *(f"Refused: {error}" for error in refused)]
    _emit({"signed": signed, "refused": list(map(str, refused))}, "\n".join(said), as_json=as_json)
    if refused:
        raise typer.Exit(Refused.exit_code)


@app.command()
def show(
    path: Annotated[Path, typer.Argument(help="A party's folder, or a CA's.")],
    as_json: Json = False,
) -> None:
    """Show who a folder is for, until when its certificates hold, and the fingerprint to read to your peers."""
    if (path / "registry.json").exists():
        facts = _ca_facts(path)
        rows = [f"{e['party']}  {e['kind']}  until {e['not_after_utc']}{_mark(e)}" for e in facts["issued"]]
        text = "\n".join([f"Federation {facts['federation']}", f"CA fingerprint {facts['fingerprint']}", *rows])
    else:
        facts = _wallet_facts(path)
        text = _wallet_text(facts)
    _emit(facts, text, as_json=as_json)


@app.command()
def renew(
    wallet: Annotated[Path, typer.Option("--wallet", help="The party's folder, on this machine.")],
    ca: Ca = Path("ca"),
    as_json: Json = False,
) -> None:
    """Give a party on this machine a fresh TLS certificate on a fresh key. Enrolled silos renew by themselves."""
    from certs.ca import CertificateAuthority
    from certs.wallet import Wallet

    authority, folder, now = CertificateAuthority.load(ca), Wallet(wallet), _now()
    request = folder.renewal_request()
    folder.install_renewal(authority.renew(folder.party, request, now), now)
    facts = _wallet_facts(wallet)
    _emit(facts, _wallet_text(facts), as_json=as_json)


@app.command()
def revoke(role: RoleName, name: PartyName, ca: Ca = Path("ca"), as_json: Json = False) -> None:
    """Revoke everything a party holds; the aggregator refuses it as soon as it has the new crl.pem."""
    from certs.ca import CertificateAuthority

    authority = CertificateAuthority.load(ca)
    party = _party(authority.federation, role, name)
    count = authority.revoke(party, _now())
    crl = str(ca / "crl.pem")
    text = f"{count} certificates of {party.uri} revoked. If the aggregator is elsewhere, copy {crl} to it."
    _emit({"party": party.uri, "revoked": count, "crl": crl}, text, as_json=as_json)


def _emit(facts: dict[str, Any], text: str, *, as_json: bool) -> None:
    import json

    typer.echo(json.dumps(facts, sort_keys=True) if as_json else text)


def _now() -> Any:  # noqa: ANN401 - a datetime; the import stays out of --help
    from datetime import UTC, datetime

    return datetime.now(UTC)


def _party(federation: str, role: str, name: str) -> "PartyId":
    from certs.names import PartyId, Role
    from privacy.errors import ConfigError

    if role not in set(Role):
        raise ConfigError(f"role {role!r}", "is unknown", f"Use one of {', '.join(Role)}.")
    return PartyId(federation, Role(role), name)


def _wallet_facts(folder: Path) -> dict[str, Any]:
    from certs.identity import fingerprint
    from certs.times import utc_text
    from certs.verify import Kind
    from certs.wallet import Wallet

    wallet = Wallet(folder)
    tls, identity = wallet.leaf(Kind.TLS), wallet.leaf(Kind.IDENTITY)
    return {
        "folder": str(folder),
        "party": identity.party.uri,
        "identity_key": wallet.identity().public_key.hex(),
        "fingerprint": fingerprint(wallet.identity().public_key),
        "identity_not_after_utc": utc_text(identity.not_after_utc),
        "tls_not_after_utc": utc_text(tls.not_after_utc),
    }


def _wallet_text(facts: dict[str, Any]) -> str:
    return (
        f"{facts['party']} in {facts['folder']}\n"
        f"identity fingerprint {facts['fingerprint']}\n"
        f"identity until {facts['identity_not_after_utc']}, TLS until {facts['tls_not_after_utc']}"
    )


def _ca_facts(folder: Path) -> dict[str, Any]:
    from certs.ca import CertificateAuthority
    from certs.times import utc_text

    authority = CertificateAuthority.load(folder)
    issued = [
        {
            "party": entry.uri,
            "kind": entry.kind.value,
            "not_after_utc": utc_text(entry.not_after_utc),
            "revoked_utc": None if entry.revoked_utc is None else utc_text(entry.revoked_utc),
        }
        for entry in authority.issued()
    ]
    return {"federation": authority.federation, "fingerprint": _ca_fingerprint(authority.ca_pem), "issued": issued}


def _mark(entry: dict[str, Any]) -> str:
    return f"  REVOKED {entry['revoked_utc']}" if entry["revoked_utc"] else ""


def _ca_fingerprint(ca_pem: bytes) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    from certs.identity import fingerprint
    from certs.verify import load_ca

    return fingerprint(load_ca(ca_pem).public_bytes(Encoding.DER))


def _describe(request: "QueuedRequest", authority: "CertificateAuthority") -> str:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from certs.identity import fingerprint

    if request.identity_csr is None:
        return f"a renewed TLS certificate for {request.party.uri}"
    key = x509.load_pem_x509_csr(request.identity_csr).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    before, hosts = authority.knows(request.party), authority.hosts(request.party)
    replaced = " in the place of certificates it was given before" if before else ""
    return f"{request.party.uri} with identity fingerprint {fingerprint(key)}{replaced}" + (
        f", for the host names {', '.join(hosts)}" if hosts else ""
    )

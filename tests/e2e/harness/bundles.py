"""SPIFFE bundles as documents, and a certificate of a Web PKI that is ours alone."""

import base64
import datetime
import ipaddress
import json
from types import SimpleNamespace


def spiffe_bundle(pem_path, more):
    """The authorities of a PEM file in the SPIFFE bundle format."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    with open(pem_path, "rb") as file:
        authorities = x509.load_pem_x509_certificates(file.read())
    keys = [
        {"use": "x509-svid", "kty": "EC", "x5c": [base64.b64encode(authority.public_bytes(Encoding.DER)).decode()]}
        for authority in authorities
    ]
    return json.dumps({"keys": keys, **more})


def web_certificate(directory, address):
    """Root and server certificate for an IP address: paths `root`, `certificate`, `key`."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    directory.mkdir()
    now = datetime.datetime.now(datetime.timezone.utc)
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Web root")])

    def builder(subject, public_key):
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(root_name).public_key(public_key)
        made = made.serial_number(x509.random_serial_number())
        return made.not_valid_before(now - datetime.timedelta(minutes=1)).not_valid_after(now + datetime.timedelta(days=1))

    root = builder(root_name, root_key.public_key())
    root = root.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(root_key, hashes.SHA256())
    leaf = builder(x509.Name([]), key.public_key())
    leaf = leaf.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=True)
    leaf = leaf.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    leaf = leaf.sign(root_key, hashes.SHA256())
    paths = SimpleNamespace(**{name: str(directory / f"{name}.pem") for name in ("root", "certificate", "key")})
    for path, content in {
        paths.root: root.public_bytes(serialization.Encoding.PEM),
        paths.certificate: leaf.public_bytes(serialization.Encoding.PEM),
        paths.key: key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    }.items():
        with open(path, "wb") as file:
            file.write(content)
    return paths

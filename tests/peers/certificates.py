"""TLS certificates: a certificate authority for the test, which all of its servers trust."""

import datetime
import ipaddress
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

DAY = datetime.timedelta(days=1)


class Certificates:
    """All servers share one certificate, as their names only differ in the port."""

    def __init__(self, directory):
        self.ca_certificate = directory / "ca.pem"
        self.certificate = directory / "certificate.pem"
        self.key = directory / "key.pem"

        signer = ec.generate_private_key(ec.SECP256R1())
        issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Test CA")])
        basic = x509.BasicConstraints(ca=True, path_length=0)
        root = self._certificate(issuer, issuer, signer.public_key(), signer, basic)
        self.ca_certificate.write_bytes(root)

        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        addresses = [x509.IPAddress(ipaddress.ip_address(text)) for text in ("127.0.0.1", "::1")]
        names = x509.SubjectAlternativeName([x509.DNSName("localhost"), *addresses])
        self.certificate.write_bytes(self._certificate(subject, issuer, key.public_key(), signer, names))
        self.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    @staticmethod
    def _certificate(subject, issuer, key, signer, extension):
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
        builder = builder.not_valid_before(now - DAY).not_valid_after(now + DAY)
        certificate = builder.add_extension(extension, critical=False).sign(signer, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM)

    def client_context(self):
        return ssl.create_default_context(cafile=self.ca_certificate)

    def server_context(self):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key)
        return context

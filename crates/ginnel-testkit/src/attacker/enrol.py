"""Enrols with gRPC's own library, and leaves key and certificate where OpenSSL's users find them."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import time

import grpc
import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

world = json.loads(sys.argv[1])
subprocess.run(
    ["protoc", f"--proto_path={world['proto']}", f"--python_out={world['out']}", "ginnel/v1/ginnel.proto"], check=True
)
sys.path.insert(0, world["out"])
from ginnel.v1 import ginnel_pb2 as ginnel  # noqa: E402


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


account = json.load(open(world["account"]))
key = ec.generate_private_key(ec.SECP256R1())
spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
now = int(time.time())
claims = {
    "iss": account["client_email"],
    "sub": account["client_email"],
    "aud": f"https://{world['name']}/enrol",
    "iat": now,
    "exp": now + 300,
    "jti": base64url(os.urandom(16)),
    "cnf": {"spki#S256": base64url(hashlib.sha256(spki).digest())},
}
token = jwt.encode(claims, account["private_key"], algorithm="RS256", headers={"kid": account["private_key_id"]})
csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
request = ginnel.EnrolRequest(token=token, certificate_signing_request=csr.public_bytes(serialization.Encoding.DER))
credentials = grpc.ssl_channel_credentials(open(world["root"], "rb").read())
options = [("grpc.ssl_target_name_override", world["name"])]
with grpc.secure_channel(world["address"], credentials, options) as channel:
    enrol = channel.unary_unary(
        "/ginnel.v1.Enrolment/Enrol", ginnel.EnrolRequest.SerializeToString, ginnel.EnrolResponse.FromString
    )
    chain = [x509.load_der_x509_certificate(der) for der in enrol(request, timeout=20).certificate_chain]
open(world["chain"], "wb").write(b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain))
private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
open(world["key"], "wb").write(key.private_bytes(serialization.Encoding.PEM, *private))
print(json.dumps({"chain": len(chain)}))

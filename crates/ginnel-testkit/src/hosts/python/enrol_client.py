"""Enrols with a token that PyJWT signs, then speaks as the agent or client that the certificate names.

Everything here is other people's: gRPC's own Python library, protoc's messages from our .proto file, PyJWT, pyca/cryptography.
"""

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

proto, out, roots, key_file, audience, enrol_at, enrol_name, server_at, server_name, role = sys.argv[1:]
subprocess.run(["protoc", f"--proto_path={proto}", f"--python_out={out}", "ginnel/v1/ginnel.proto"], check=True)
sys.path.insert(0, out)
from ginnel.v1 import ginnel_pb2 as ginnel  # noqa: E402

account = json.load(open(key_file))
roots = open(roots, "rb").read()


def channel(address, name, key=None, chain=None):
    credentials = grpc.ssl_channel_credentials(roots, key, chain)
    return grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", name)])


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def enrol(address, name, key, bound_to):
    spki = bound_to.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    now = int(time.time())
    claims = {
        "iss": account["client_email"],
        "sub": account["client_email"],
        "aud": audience,
        "iat": now,
        "exp": now + 300,
        "jti": base64url(os.urandom(16)),
        "cnf": {"spki#S256": base64url(hashlib.sha256(spki).digest())},
    }
    headers = {"kid": account["private_key_id"]}
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    message = ginnel.EnrolRequest(
        token=jwt.encode(claims, account["private_key"], algorithm="RS256", headers=headers),
        certificate_signing_request=request.public_bytes(serialization.Encoding.DER),
    )
    call = channel(address, name).unary_unary(
        "/ginnel.v1.Enrolment/Enrol", ginnel.EnrolRequest.SerializeToString, ginnel.EnrolResponse.FromString
    )
    return call(message, timeout=20)


key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

# By way of the server, or at the process that enrols: what is wrong has one answer.
for address, name in [(enrol_at, enrol_name), (server_at, server_name)]:
    try:
        enrol(address, name, key, bound_to=other)
        raise AssertionError("a token that is bound to another key was taken")
    except grpc.RpcError as error:
        answer = (error.code(), error.details())
        assert answer == (grpc.StatusCode.UNAUTHENTICATED, "enrolment refused"), answer

chain = [x509.load_der_x509_certificate(der) for der in enrol(enrol_at, enrol_name, key, key).certificate_chain]
names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
(uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
pem = b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in chain)
key_pem = key.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)

hello = ginnel.Hello(
    instance_id=os.urandom(16), software_version="python", protocol_version=1, capabilities=["innerTls"]
)
with channel(server_at, server_name, key_pem, pem) as server:
    if role == "agent":
        attach = server.stream_stream(
            "/ginnel.v1.AgentLink/Attach", ginnel.AgentMessage.SerializeToString, ginnel.ServerMessage.FromString
        )

        def say():
            yield ginnel.AgentMessage(hello=hello)
            time.sleep(60)

        welcome = next(attach(say(), timeout=20)).welcome
    else:
        roster = server.unary_stream(
            "/ginnel.v1.ClientLink/Roster", ginnel.RosterRequest.SerializeToString, ginnel.RosterMessage.FromString
        )
        first = next(roster(ginnel.RosterRequest(hello=hello), timeout=20))
        welcome = first.welcome
        assert [entry.agent.rsplit("/", 1)[1] for entry in first.entries] == ["acme"], first
    assert len(welcome.server_id) == 16 and "innerTls" in welcome.capabilities, welcome
    print(uri)
    # The call of the agent has a thread that says nothing more; the process need not wait for it.
    sys.stdout.flush()
    os._exit(0)

"""sslyze tries everything that there is to TLS; what it finds goes out as JSON.

It begins by asking whether the server wants a certificate, with a request after the handshake. A server that hears nothing of HTTP/2 in the
handshake has closed by then, so that the question is answered here.
"""

import json
import sys

WORLD = json.loads(sys.argv[1])
sys.path.insert(0, WORLD["modules"])
from sslyze import Scanner, ScanCommand, ServerNetworkConfiguration, ServerNetworkLocation, ServerScanRequest  # noqa: E402
from sslyze import server_connectivity  # noqa: E402
from sslyze.server_connectivity import ClientAuthRequirementEnum  # noqa: E402

server_connectivity._detect_client_auth_requirement_with_tls_1_3 = lambda **_: ClientAuthRequirementEnum.OPTIONAL

host, port = WORLD["address"].rsplit(":", 1)
names = ["ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1", "tls_1_2", "tls_1_3"]
commands = {ScanCommand[f"{name.upper()}_CIPHER_SUITES"] for name in names} | {
    ScanCommand.TLS_1_3_EARLY_DATA,
    ScanCommand.TLS_COMPRESSION,
    ScanCommand.HEARTBLEED,
    ScanCommand.OPENSSL_CCS_INJECTION,
    ScanCommand.SESSION_RENEGOTIATION,
    ScanCommand.SESSION_RESUMPTION,
}
scanner = Scanner()
location = ServerNetworkLocation(hostname=host, port=int(port))
network = ServerNetworkConfiguration(tls_server_name_indication=WORLD["name"])
scanner.queue_scans([ServerScanRequest(server_location=location, network_configuration=network, scan_commands=commands)])
(result,) = scanner.get_results()
found = result.scan_result
accepted, failed = {}, []
for name in names:
    attempt = getattr(found, f"{name}_cipher_suites")
    suites = attempt.result.accepted_cipher_suites if attempt.result else None
    accepted[name] = [suite.cipher_suite.name for suite in suites] if suites is not None else str(attempt.error_reason)


def said(attempt, field):
    """What a question was answered; the reason where it could not be asked, as with what only older versions have."""
    return getattr(attempt.result, field) if attempt.result else str(attempt.error_reason)


print(
    json.dumps(
        {
            "accepted": accepted,
            "early data": said(found.tls_1_3_early_data, "supports_early_data"),
            "compression": said(found.tls_compression, "supports_compression"),
            "heartbleed": said(found.heartbleed, "is_vulnerable_to_heartbleed"),
            "ccs injection": said(found.openssl_ccs_injection, "is_vulnerable_to_ccs_injection"),
            "renegotiation": said(found.session_renegotiation, "is_vulnerable_to_client_renegotiation_dos"),
            "session ids": str(said(found.session_resumption, "session_id_resumption_result")),
            "tickets": str(said(found.session_resumption, "tls_ticket_resumption_result")),
        }
    )
)

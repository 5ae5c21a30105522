"""Names in the state folder that several rooms use."""

CA_FOLDER = "ca"
CA_CERT, SERVER_CERT, SERVER_KEY = "ca.crt", "server.crt", "server.key"
"""In `CA_FOLDER`: the authority's certificate, and what nginx and the SuperLink show."""
SUPEREXEC_SECRET = "superexec.secret"
"""In FLWR_HOME: shared by SuperLink and superexec."""

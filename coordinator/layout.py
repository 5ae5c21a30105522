"""Names in the state folder that several rooms use."""

CA_FOLDER = "ca"
CA_CERT, SERVER_CERT, SERVER_KEY = "ca.crt", "server.crt", "server.key"
"""In `CA_FOLDER`: the authority's certificate, and what nginx and the SuperLink show."""
RUN_FILE = "run.json"
"""Id of the Flower run that the coordinator keeps going."""
SUPEREXEC_SECRET = "superexec.secret"
"""In FLWR_HOME: shared by SuperLink and superexec."""

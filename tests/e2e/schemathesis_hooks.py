"""Makes schemathesis send images and random bytes for strings that the description declares as binary."""

import pathlib

import schemathesis
from hypothesis import strategies as st

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "fixtures"
FILES = {"jpeg": "plain.jpg", "png": "plain.png", "gif": "plain.gif", "bmp": "plain.bmp"}

binary = st.sampled_from([(FIXTURES / name).read_bytes() for name in FILES.values()]) | st.binary(max_size=1024)
schemathesis.openapi.format("binary", binary)
BYTES = ["application/octet-stream", "application/offset+octet-stream", "application/partial-upload"]
for media_type in [*BYTES, *(f"image/{kind}" for kind in FILES)]:
    schemathesis.openapi.media_type(media_type, binary)

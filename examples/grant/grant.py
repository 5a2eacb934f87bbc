"""Prints an address at which a browser may upload images. A backend calls upload_address() for its signed-in user.

Run it: pip install PyJWT, then python grant.py
"""

import hashlib
import os
import time
import uuid

import jwt

STORE = os.environ["IMAGE_STORE_URL"]
# A grant is signed with the SHA-256 of an API key. Both stay on the server.
SECRET = hashlib.sha256(os.environ["IMAGE_STORE_API_KEY"].encode()).digest()


def upload_address(user: str, **limits) -> str:
    """Returns an address at which `user` may upload images for 15 minutes."""
    claims = {
        "aud": "image-store",
        "exp": int(time.time()) + 900,
        "jti": str(uuid.uuid4()),
        "max_size": 20_000_000,
        "formats": ["jpeg", "png"],
        "metadata": {"user": user},  # is stored with each image
    }
    return f"{STORE}/g/{jwt.encode(claims | limits, SECRET, algorithm='HS256')}/"


if __name__ == "__main__":
    # With a key, the grant is for exactly one image, whose key is known before the image exists.
    print(upload_address("user-42", key=f"{uuid.uuid4()}.jpg"))

#!/bin/sh
# Prints an address at which a browser may upload images for 15 minutes. Requires openssl.
set -eu
b64() { openssl base64 -A | tr +/ -_ | tr -d =; }

claims=$(printf '{"aud":"image-store","exp":%d,"max_size":20000000,"metadata":{"user":"%s"}}' \
    $(($(date +%s) + 900)) user-42)
signed=$(printf '{"alg":"HS256"}' | b64).$(printf %s "$claims" | b64)
# A grant is signed with the SHA-256 of an API key. Both stay on the server.
secret=$(printf %s "$IMAGE_STORE_API_KEY" | openssl dgst -sha256 -r | cut -d' ' -f1)
signature=$(printf %s "$signed" | openssl dgst -sha256 -mac HMAC -macopt "hexkey:$secret" -binary | b64)
echo "$IMAGE_STORE_URL/g/$signed.$signature/"

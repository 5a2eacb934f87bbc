#!/bin/sh
# Uploads an image with curl: upload.sh photo.jpg. Prints the response, which has the image's key and a link to it.
set -eu
response=$(mktemp)
trap 'rm -f "$response"' EXIT

# curl repeats the request after errors that may pass: a lost connection, or a status such as 503. All attempts have the
# same Idempotency-Key, so the image is stored once even if only a response was lost. A rejected image is not sent again.
status=$(curl --silent --show-error --retry 5 --retry-all-errors --output "$response" --write-out '%{http_code}' \
    --header "Authorization: Bearer $IMAGE_STORE_API_KEY" \
    --header "Idempotency-Key: \"$(openssl rand -hex 16)\"" \
    --form "file=@$1" "$IMAGE_STORE_URL/upload-image")

cat "$response" && echo
[ "$status" = 200 ]

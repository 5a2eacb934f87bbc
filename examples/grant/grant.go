// Prints an address at which a browser may upload images. A backend calls uploadAddress for its signed-in user.
// Run it: go run grant.go
package main

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// A grant is a JSON Web Token. Any JWT library can make one, and so can the standard library.
func grant(apiKey string, claims map[string]any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	encode := base64.RawURLEncoding.EncodeToString
	signed := encode([]byte(`{"alg":"HS256"}`)) + "." + encode(payload)
	// It is signed with the SHA-256 of an API key. Both stay on the server.
	secret := sha256.Sum256([]byte(apiKey))
	mac := hmac.New(sha256.New, secret[:])
	mac.Write([]byte(signed))
	return signed + "." + encode(mac.Sum(nil)), nil
}

// uploadAddress returns an address at which the user may upload images for 15 minutes.
func uploadAddress(store, apiKey, user string) (string, error) {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return "", err
	}
	token, err := grant(apiKey, map[string]any{
		"aud":      "image-store",
		"exp":      time.Now().Add(15 * time.Minute).Unix(),
		"jti":      hex.EncodeToString(id),
		"max_size": 20_000_000,
		"formats":  []string{"jpeg", "png"},
		"metadata": map[string]string{"user": user}, // is stored with each image
	})
	return store + "/g/" + token + "/", err
}

func main() {
	address, err := uploadAddress(os.Getenv("IMAGE_STORE_URL"), os.Getenv("IMAGE_STORE_API_KEY"), "user-42")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(address)
}

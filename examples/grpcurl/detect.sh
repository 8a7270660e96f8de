#!/bin/sh
# Prints the faces of a photo as JSON.
# usage: detect.sh PHOTO [HOST:PORT]
set -eu
address=${2:-127.0.0.1:50052}

base64 -w0 "$1" | awk '{print "{\"image\": {\"data\": \"" $0 "\"}}"}' |
  grpcurl -plaintext -max-msg-sz 100000000 -d @ "$address" atelier.restorer.v1.RestorerService/DetectFaces

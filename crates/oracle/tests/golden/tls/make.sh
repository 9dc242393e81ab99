#!/bin/sh
# A certificate of its own for 127.0.0.1 and its key, for a hundred years. Test data: the key guards nothing.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500 -subj "/CN=antiphon test" \
  -addext "subjectAltName=IP:127.0.0.1" -addext "basicConstraints=critical,CA:FALSE" -keyout key.pem -out certificate.pem

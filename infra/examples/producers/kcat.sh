#!/bin/sh
# Ask for one notification from Kafka, and learn at once whether the request was taken. With kcat.
#
#     echo '{"to": "receiver@example.org", "subject": "Alerta", "body": "Se ha detectado."}' \
#         | ./kcat.sh 127.0.0.1:9092 "$(uuidgen | tr A-Z a-z)"
#
# The id is that of a CloudEvent; keep it, and send again with it until this succeeds: a copy is harmless.
# Exit code 0: taken; 1: rejected, and why; 2: nobody said anything in time.
set -eu
bootstrap=$1 id=$2

# This line is all that is needed to ask.
tr -d '\n' | kcat -P -b "$bootstrap" -t notifications.requested -k "$id" -X acks=all -X enable.idempotence=true \
    -H ce_specversion=1.0 -H ce_id="$id" -H ce_source=/example/kcat -H ce_type=notification.requested

for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    result=$(kcat -C -q -e -b "$bootstrap" -t notifications.results -o -1000 -f '%k %s\n' | sed -n "s/^$id //p" | head -n 1)
    if [ -n "$result" ]; then
        echo "$result"
        case $result in *'"status":"rejected"'*) exit 1 ;; *) exit 0 ;; esac
    fi
    sleep 1
done
echo "$id: no answer" >&2
exit 2

#!/bin/sh
# A device asked with mosquitto's own clients (Debian: mosquitto-clients). Variables: HOST, PORT, DEVICE.
#
#   HOST=gateway.local DEVICE=press-1 packaging/examples/mosquitto_rr.sh
#
# Each command waits for its one answer; -W gives up after so many seconds.
set -eu
host=${HOST:-localhost} port=${PORT:-1883} device=${DEVICE:-$(uname -n)} base=${BASE:-tern}
me=clients/$(uname -n)-$$

# MQTT 5: plain text, and an answer to the response topic. 30 s after it was sent nobody works on it any more.
rr() { mosquitto_rr -V mqttv5 -q 1 -W 60 -h "$host" -p "$port" -e "$me/answers" "$@"; }
rr -t "$base/$device/log-severity/request" -D publish message-expiry-interval 30 -m "fan 2 stopped, temperature 91 C"

# The same with a name, by which the answer is known and which makes a repetition harmless.
rr -t "$base/$device/log-severity/request" -D publish correlation-data "req-$$" -m "fan 2 stopped, temperature 91 C"

# A question of one's own, in JSON.
rr -t "$base/$device/ask/request" \
    -m '{"ask":{"kind":"yes_no","instructions":"Does this need a person at once?"},"text":"coolant leak at press 3"}'

# What the device is and does.
rr -t "$base/$device/status/request" -n

# MQTT 3.1.1 has no properties: reply_to, id and ttl_s go into the JSON.
mosquitto_rr -V mqttv311 -q 1 -W 60 -h "$host" -p "$port" -t "$base/$device/log-severity/request" -e "$me/old" \
    -m "{\"id\":\"old-$$\",\"reply_to\":\"$me/old\",\"ttl_s\":30,\"text\":\"fan 2 stopped\"}"

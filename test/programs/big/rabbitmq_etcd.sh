# timeout: 600
# checkpoint: yes
# RabbitMQ on Erlang's machine: queues by its HTTP interface, what it keeps over an end and a new start; etcd with kill -9 and what it kept.
d=$PWD; export HOME=$d; chmod 755 .
export RABBITMQ_NODENAME=r@localhost RABBITMQ_MNESIA_BASE=$d/m RABBITMQ_LOG_BASE=$d/l RABBITMQ_PID_FILE=$d/pid RABBITMQ_ENABLED_PLUGINS_FILE=$d/plugins RABBITMQ_NODE_IP_ADDRESS=127.0.0.1
echo '[rabbitmq_management].' >plugins
B=$(ls -d /usr/lib/rabbitmq/lib/*/sbin); export PATH=$B:$PATH
rabbitmq-server >log 2>&1 & p=$!
u=http://guest:guest@127.0.0.1:15672/api; until curl -sf $u/overview >/dev/null; do sleep 0.3; done
curl -s -X PUT -H 'content-type: application/json' -d '{"durable": true}' $u/queues/%2f/q -w '%{http_code}\n'
i=0; while [ $i -lt 20 ]; do curl -s -d "{\"properties\": {\"delivery_mode\": 2}, \"routing_key\": \"q\", \"payload\": \"m$i\", \"payload_encoding\": \"string\"}" $u/exchanges/%2f/amq.default/publish | jq .routed; i=$((i + 1)); done | sort | uniq -c
curl -s -d '{"count": 5, "ackmode": "ack_requeue_false", "encoding": "auto"}' $u/queues/%2f/q/get | jq -r '.[].payload'
kill $p; wait $p; echo "end $?"
rabbitmq-server >log 2>&1 & p=$!
until curl -sf $u/overview >/dev/null; do sleep 0.3; done
until [ "$(curl -s $u/queues/%2f/q | jq .messages)" = 15 ]; do sleep 0.3; done; echo kept; kill $p; wait $p; echo "end $?"
etcd --data-dir e --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 >etcd.log 2>&1 & p=$!
until curl -sf http://127.0.0.1:2379/health >/dev/null; do sleep 0.2; done
v() { curl -s -X POST -d "$2" "http://127.0.0.1:2379/v3/kv/$1"; }
i=0; while [ $i -lt 30 ]; do v put "{\"key\": \"$(printf k | base64)\", \"value\": \"$(printf %s $i | base64)\"}" >/dev/null; i=$((i + 1)); done
{ kill -9 $p; wait $p; } 2>/dev/null
etcd --data-dir e --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 >etcd.log 2>&1 & p=$!
until curl -sf http://127.0.0.1:2379/health >/dev/null; do sleep 0.2; done
v range "{\"key\": \"$(printf k | base64)\"}" | jq -r '.kvs[0].value, .kvs[0].version' | sed '1s/.*/& base64/'; kill $p

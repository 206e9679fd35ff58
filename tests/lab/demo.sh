# What tests/demo shows, inside the lab. Argument: the folder of the built program.
set -euo pipefail
PATH=$1:$PATH
export STATE_DIRECTORY=$LAB/state RUNTIME_DIRECTORY=$LAB/runtime
docker() { $LAB_ENTER docker "$@"; }
title() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
run() { printf '$ %s\n' "$*"; "$@" || printf '(exit status %s)\n' $?; }
[ -t 1 ] || title() { printf '\n== %s\n' "$*"; }

wait_until() { # WHAT CONDITION
  local end=$((SECONDS + 120))
  while [ $SECONDS -lt $end ]; do
    if eval "$2"; then return; fi
    sleep 0.1
  done
  echo "waited two minutes in vain until $1; the engine's log ends:" >&2
  tail -n 20 "$LAB/data.log" "$LAB/last-answer" >&2
  exit 1
}

# On a busy machine the engine may answer "in use" or "not yet" for a moment, so each command is repeated until
# its effect is there (20.10: "network … is in use by task …" while a stack is removed).
try() { "$@" >"$LAB/last-answer" 2>&1; }
deploy() { # STACK IMAGE
  printf 'version: "3.8"\nservices:\n  app:\n    image: %s\n' "$2" > "$LAB/stack.yml"
  wait_until "the stack is deployed" "try docker stack deploy --compose-file - $1 < $LAB/stack.yml"
  wait_until "the service runs" "docker service ls --format '{{.Replicas}}' | grep -q 1/1"
}
tear_down() { # STACK
  local of_stack="--filter label=com.docker.stack.namespace=$1"
  wait_until "the stack is gone" \
    "try docker stack rm $1 && [ -z \"\$(docker ps --all --quiet; docker network ls --quiet $of_stack)\" ]"
}
downloaded() { grep -c '"GET /v2/.*/blobs/sha256:' "$LAB/registry.log" || true; }
deploy_and_count() { # STACK IMAGE
  local before
  before=$(downloaded)
  deploy "$1" "$2"
  blobs=$(($(downloaded) - before))
  echo "deployed $2 as stack $1: $blobs blobs downloaded (2 layers, 1 configuration)"
}
fill() { # PERCENT
  read -r used available < <(df --block-size=1 --output=used,avail "$LAB/data" | tail -n 1)
  fallocate --length $(((used + available) * $1 / 100 - used)) "$LAB/data/ballast"
}

title "A CI run: a stack is deployed by Swarm, tested, and torn down"
run ci-docker-prune --version
deploy_and_count abcd-1a2b3c_ci_commoninternet_net redis:7-alpine
echo; echo "while it is live, the gates block every prune:"
run ci-docker-prune check-gates
echo; echo "the record timer notes every five minutes which images are in use:"
run ci-docker-prune record --verbose
tear_down abcd-1a2b3c_ci_commoninternet_net
echo; echo "its image was built in 2024, has no tag, and is the cache of the next run:"
docker image ls --digests

title "Another image that no run has used for a month"
deploy shop 127.0.0.1:5000/shop/frontend:1
ci-docker-prune record
tear_down shop
ci-docker-prune record
old=$(docker image inspect --format '{{.Id}}' "$(docker image ls --digests --format '{{.Repository}}@{{.Digest}}' | grep shop)")
month_ago=$(date --utc --date '30 days ago' +%FT%TZ)
sed -i "/\"$old\": {/,/^    }/ s/\"20[0-9T:.-]*Z\"/\"$month_ago\"/" "$STATE_DIRECTORY/ledger.json"
echo "(this demo has no month: it writes the date into the ledger)"

title "An idle disk: nothing is ever removed"
run ci-docker-prune prune

title "The disk fills: what would go, and what stays"
fill 82
before=$(df --output=pcent "$LAB/data" | tail -n 1)
run ci-docker-prune --dry-run
run ci-docker-prune explain redis:7-alpine

title "The prune"
run ci-docker-prune prune --disk-target 79
after=$(df --output=pcent "$LAB/data" | tail -n 1)
docker image inspect "$old" >/dev/null 2>&1 && frontend="is still there" || frontend="is gone"

title "The next CI run: its cache is still there"
deploy_and_count efgh-4d5e6f_ci_commoninternet_net redis:7-alpine
tear_down efgh-4d5e6f_ci_commoninternet_net

ours=$blobs

title "The same with docker's own prune: this is what ci-docker-prune prevents"
run docker image prune --force --filter until=24h
deploy_and_count ijkl-7a8b9c_ci_commoninternet_net redis:7-alpine

title "What was shown"
echo "the disk went from$before to$after: the image that no run had used for a month $frontend"
echo "the next run of redis:7-alpine downloaded $ours blobs, because the ledger had seen it in use"
echo "after docker image prune --filter until=24h the same run downloaded $blobs: it goes by the build date"

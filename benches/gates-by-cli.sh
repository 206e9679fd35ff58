# The same three gates as a shell script over the docker CLI: what the benchmark compares with.
pattern='^[^_]{1,4}-[0-9a-f]{6}_ci_commoninternet_net(_|$)'
closed=0
root=$(docker info --format '{{.DockerRootDir}}')
used=$(df --output=pcent "$root" | tail -n 1 | tr -dc 0-9)
[ "$used" -ge 80 ] || { echo "disk closed: $used%"; closed=1; }
runs=$({
  docker stack ls --format '{{.Name}}'
  docker service ls --format '{{.Name}}'
  docker ps --format '{{.Names}}'
  docker ps --format '{{.Label "com.docker.compose.project"}}'
} | grep -E "$pattern" | sort -u)
[ -z "$runs" ] || { echo "runs closed: $runs"; closed=1; }
converging=$(docker service ls --format '{{.Name}} {{.Replicas}}' |
  awk '{ split($2, n, "/"); if (n[1] < n[2]) print $1 }')
services=$(docker service ls --quiet)
[ -z "$services" ] || converging=$converging$(docker service inspect $services \
  --format '{{if .UpdateStatus}}{{.UpdateStatus.State}}{{end}}' | grep -E 'updating|rollback_started')
[ -z "$converging" ] || { echo "converge closed: $converging"; closed=1; }
[ $closed -eq 0 ] || exit 3

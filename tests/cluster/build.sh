#!/usr/bin/env bash
# Builds the programs of the test cluster from Go modules, once per machine: etcd, kube-apiserver,
# kube-controller-manager, kube-scheduler, kube-proxy, kubelet, kubectl and helm.
#
#   build.sh               builds what is missing; the last line on stdout is the directory with the binaries
#   build.sh --print-dir   prints that directory and builds nothing; it exits with 1 if it is not built yet
#
# The directory is named after a hash of the lock files and of this script, so that it changes with them.
# KUBEBUILDER_ASSETS (setup-envtest): its etcd, kube-apiserver and kubectl are used, and only the rest is built.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/endpoints-operator
programs=(etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl helm)

say() { printf 'cluster: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# --- Go, at least as new as the go.mod files ask ---
wanted=$(sed -n 's/^go //p' "$here/go.mod" "$here/helm/go.mod" | sort -V | tail -n 1)
advice="Go $wanted or newer is needed: install it from https://go.dev/dl/ (a distribution's package is often too old)"
command -v go >/dev/null || fail "$advice"
# With GOTOOLCHAIN=auto, Go 1.21 and newer fetch what go.mod asks for, and this prints the fetched version.
found=$(cd "$here" && go env GOVERSION 2>/dev/null | sed 's/^go//') || found=
if [ "$(printf '%s\n%s\n' "$wanted" "${found:-0}" | sort -V | head -n 1)" != "$wanted" ]; then
  fail "$advice; found: $(cd / && go version 2>/dev/null || echo none)"
fi

# --- What is used from elsewhere, and the directory ---
assets=
key=$(cd "$here" && { cat go.mod go.sum helm/go.mod helm/go.sum build.sh; go env GOARCH; } | sha256sum)
name=cluster-${key:0:12}
if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
  assets=$(readlink -f "$KUBEBUILDER_ASSETS") || assets=
  for p in etcd kube-apiserver kubectl; do
    if [ ! -x "$assets/$p" ]; then
      say "KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS has no $p and is not used"
      assets=
      break
    fi
  done
fi
full=$cache/$name/bin
dir=$full
if [ -n "$assets" ]; then
  stamp=$({ echo "$key"; stat -L -c '%n %s %Y' "$assets"/*; } | sha256sum)
  dir=$cache/cluster-${stamp:0:12}/bin
fi

if [ "${1:-}" = --print-dir ]; then
  echo "$dir"
  [ -d "$dir" ]
  exit
fi

if [ ! -d "$dir" ]; then
  mkdir -p "$cache"
  # One build per machine at a time; who waited finds the work done.
  exec 9>"$cache/build.lock"
  if ! flock -n 9; then
    say "another build is running; waiting for it"
    until flock -w 20 9; do say "waiting for the other build, $SECONDS s so far"; done
  fi
fi

if [ ! -d "$dir" ]; then
  rm -rf "$cache"/build.?????? "${dir%/bin}" # what a killed build left behind
  missing=()
  tmp=$(mktemp -d "$cache/build.XXXXXX")
  beat=
  trap '[ -z "$beat" ] || kill "$beat" 2>/dev/null; rm -rf "$tmp"' EXIT
  trap 'exit 130' INT TERM
  mkdir "$tmp/bin"
  for p in "${programs[@]}"; do
    if [ -n "$assets" ] && [ -x "$assets/$p" ]; then
      ln -s "$assets/$p" "$tmp/bin/$p"
    elif [ "$dir" != "$full" ] && [ -x "$full/$p" ]; then
      ln "$full/$p" "$tmp/bin/$p" 2>/dev/null || cp "$full/$p" "$tmp/bin/$p"
    else
      missing+=("$p")
    fi
  done

  if [ ${#missing[@]} -gt 0 ]; then
    kubernetes=$(sed -n 's/^\tk8s.io\/kubernetes \(v[0-9.]*\).*/\1/p' "$here/go.mod")
    helm=$(sed -n 's/^\thelm.sh\/helm\/v3 \(v[0-9.]*\).*/\1/p' "$here/helm/go.mod")
    IFS=. read -r major minor _ <<<"${kubernetes#v}"
    say "building ${missing[*]} (Kubernetes $kubernetes, helm $helm) with go$found"
    say "the first time this takes about 15 CPU minutes (8 min on 2 cores, 2 min on 8) and 3 GB in Go's caches"
    SECONDS=0
    elapsed() { printf '%d min %02d s' $((SECONDS / 60)) $((SECONDS % 60)); }
    ( exec 9>&- >/dev/null; while sleep 20 2>/dev/null; do say "building, $(elapsed) so far"; done ) &
    beat=$!

    targets=()
    for p in "${missing[@]}"; do
      case $p in
        helm) ;;
        etcd) targets+=(go.etcd.io/etcd/server/v3) ;;
        *) targets+=("k8s.io/kubernetes/cmd/$p") ;;
      esac
    done
    export CGO_ENABLED=0
    flags=(-trimpath -mod=readonly -buildvcs=false)
    version=k8s.io/component-base/version
    if [ ${#targets[@]} -gt 0 ]; then
      # One call for all: what they share is compiled once. A lone target needs the slash to be a directory.
      (cd "$here" && go build "${flags[@]}" -o "$tmp/bin/" \
        -ldflags "-s -w -X $version.gitVersion=$kubernetes -X $version.gitMajor=$major -X $version.gitMinor=$minor" \
        "${targets[@]}" 9>&- >&2)
      [ ! -e "$tmp/bin/server" ] || mv "$tmp/bin/server" "$tmp/bin/etcd"
    fi
    if [[ " ${missing[*]} " == *" helm "* ]]; then
      (cd "$here/helm" && go build "${flags[@]}" -o "$tmp/bin/" \
        -ldflags "-s -w -X helm.sh/helm/v3/internal/version.version=$helm" helm.sh/helm/v3/cmd/helm 9>&- >&2)
    fi
    kill "$beat"
    beat=
    say "built in $(elapsed): $dir"
  fi
  for p in "${programs[@]}"; do
    [ -x "$tmp/bin/$p" ] || fail "$p is missing after the build; this is a bug in $here/build.sh"
  done
  chmod 755 "$tmp" "$tmp/bin"
  mv "$tmp" "${dir%/bin}"
fi
echo "$dir"

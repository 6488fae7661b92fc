#!/bin/sh
# A stand-in for Python: notes in $FAKE_LOG what it is asked, and does what make setup and make wheelhouse look for.
echo "$*" >> "$FAKE_LOG"
case "$*" in
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
  *" wheel --wheel-dir "*)
    mkdir -p "$FAKE_WHEELS"; touch "$FAKE_WHEELS/torch-2.11.0+cu126-cp311-cp311-manylinux_2_28_x86_64.whl" ;;
  -c*version*) echo "torch==2.11.0+cu126" ;;
esac

//! Examples and exit codes, as the help texts end.

pub(super) const EXAMPLES: &str = "\
Examples:
  # Record the Python processes of a pod for 30 seconds
  kubectl aiprof record pod/vllm-0

  # Record a Python process of this machine
  kubectl aiprof record --local --pid 4242

  # Show in the Perfetto UI what it did
  kubectl aiprof open server.aiprof.tar.gz

  # Sum it up
  kubectl aiprof report server.aiprof.tar.gz";

pub(super) const RECORD_EXAMPLES: &str = "\
Examples:
  # Record the Python processes of a pod for ten seconds and show the result
  kubectl aiprof record pod/vllm-0 -d 10s --open

  # The same of a ready pod of a deployment, one of its containers
  kubectl aiprof record deploy/vllm -n prod -c server -o before.aiprof.tar.gz

  # With a profiler image of my own, where the target's image has no shell
  kubectl aiprof record pod/vllm-0 --image registry.example.com/aiprof-profiler:0.1.0

  # Record process 4242 of this machine for ten seconds
  kubectl aiprof record --local --pid 4242 --duration 10s

  # Record every Python process whose command line contains \"uvicorn\", and show the result
  kubectl aiprof record --local --process uvicorn --open

  # Start a program and record it from its first instruction until it ends
  kubectl aiprof record --local -- python3 server.py

  # The same for ten seconds at most, to a file of my choice
  kubectl aiprof record --local -d 10s -o before.aiprof.tar.gz -- python3 server.py

Exit codes:
  0    all that was asked was captured
  1    failed
  2    wrong usage
  3    an archive was written, but something asked for is missing or partial
  130  given up by a second Ctrl-C";

pub(super) const OPEN_EXAMPLES: &str = "\
Examples:
  # Show a capture in https://ui.perfetto.dev; it never leaves this machine
  kubectl aiprof open server.aiprof.tar.gz

  # Only print the link
  kubectl aiprof open server.aiprof.tar.gz --no-browser

  # Use a Perfetto UI of my own: a folder that holds it, or where it runs
  kubectl aiprof open server.aiprof.tar.gz --ui ./perfetto-ui
  kubectl aiprof open server.aiprof.tar.gz --ui https://perfetto.example.com";

pub(super) const REPORT_EXAMPLES: &str = "\
Examples:
  # Where the time went: threads, functions, waits
  kubectl aiprof report server.aiprof.tar.gz

  # The thirty top rows of each table
  kubectl aiprof report server.aiprof.tar.gz --top 30

  # For scripts
  kubectl aiprof report server.aiprof.tar.gz -o json";

pub(super) const COMPLETION_EXAMPLES: &str = "\
Examples:
  # Bash, for this shell
  source <(kubectl aiprof completion bash)

  # Zsh, for every shell
  kubectl aiprof completion zsh > \"${fpath[1]}/_kubectl-aiprof\"";

pub(super) const CHECK_EXAMPLES: &str = "\
Examples:
  # What would work in this pod, and why not
  kubectl aiprof check pod/vllm-0

  # For scripts
  kubectl aiprof check deploy/vllm -n prod -o json

Exit codes:
  0  python and cpu would be recorded whole
  1  refused, or the check failed
  2  wrong usage
  3  something would be missing";

pub(super) const PS_EXAMPLES: &str = "\
Examples:
  # The processes that could be recorded
  kubectl aiprof ps pod/vllm-0

  # For scripts
  kubectl aiprof ps pod/vllm-0 -o json";

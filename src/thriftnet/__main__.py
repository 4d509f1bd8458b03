"""`python -m thriftnet`, and so `torchrun -m thriftnet`, is the command `thriftnet`."""

from thriftnet.cli import main

main()

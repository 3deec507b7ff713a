"""accelerate launch --config_file accelerate_configs/cpu_2_zero2.yaml train.py demo/tiny data.shards=shards/tiny [key=value ...]"""

import sys

from deepcoro.command_line import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

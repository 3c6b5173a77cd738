"""A Ray cluster of two machines, both here. A line on stdin, `lose` or `add`, changes that; it ends with stdin."""

from __future__ import annotations

import os
import sys

from lmcourse.replicas.ray_start import _ENVIRONMENT, _ON_LOOPBACK, LOOPBACK

os.environ.update(_ENVIRONMENT | _ON_LOOPBACK)


def main() -> None:
    from ray.cluster_utils import Cluster

    machine = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "node_ip_address": LOOPBACK}
    cluster = Cluster(initialize_head=True, head_node_args=machine | {"include_dashboard": False})
    other = cluster.add_node(**machine)
    print(f"cluster {cluster.address}", flush=True)
    for line in sys.stdin:
        if line.strip() == "lose":
            cluster.remove_node(other, allow_graceful=False)
        else:
            other = cluster.add_node(**machine)
        print(f"done {line.strip()}", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()

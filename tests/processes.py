"Several processes of one training, forked from this one: what is imported stays imported"
import os
import signal
import socket
import sys
import time
import traceback

import torch._dynamo  # noqa: F401 (the first DistributedDataParallel would import it in each process anew)


def free_port():
    with socket.socket() as one:
        one.bind(('127.0.0.1', 0))
        return one.getsockname()[1]


def start_processes(count, function, *arguments, said=os.devnull):
    "Fork `count` processes as torchrun would start them; each calls `function`, and what they say goes into a file"
    port, numbers = free_port(), []
    for rank in range(count):
        number = os.fork()
        if number == 0: run_in_child(rank, count, port, function, arguments, said)
        numbers.append(number)
    return numbers


def run_in_child(rank, count, port, function, arguments, said):
    sys.stdout = sys.stderr = open(said, 'a')
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(count), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(count), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    status = 1
    try: status = int(function(*arguments) or 0)
    except BaseException: traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)


def wait_for(numbers, seconds=60.):
    "The exit status of each, negative for a signal; None for one that did not end in time, and is killed"
    statuses, end = {}, time.monotonic() + seconds
    while len(statuses) < len(numbers) and time.monotonic() < end:
        for number in set(numbers) - set(statuses):
            ended, status = os.waitpid(number, os.WNOHANG)
            if ended: statuses[number] = os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    for number in set(numbers) - set(statuses):
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)
    return [statuses.get(number) for number in numbers]

"""Programs that do harm when nothing keeps them from it. Each is told where (`outside.Outside.names`)."""

from __future__ import annotations

from tasks.evaluation.code_execution import Verdict

BLOCKED, FAILED = Verdict.BLOCKED, Verdict.FAILED

#: Source, and the verdict in the sandbox. Every one of them does visible harm outside of it, which is tested too.
HARMFUL: dict[str, tuple[str, Verdict]] = {
    "writes a new file": ("open(directory + '/new', 'w').write('x')", BLOCKED),
    "overwrites a file": ("open(precious, 'w')", BLOCKED),
    "appends to a file": ("open(precious, 'a').write('x')", BLOCKED),
    "updates a file in place": ("open(precious, 'r+').write('x')", BLOCKED),
    "truncates a file opened for reading": ("import os; os.open(precious, os.O_RDONLY | os.O_TRUNC)", BLOCKED),
    "truncates a file by its name": ("import os; os.truncate(precious, 3)", BLOCKED),
    "deletes a file": ("import os; os.remove(precious)", BLOCKED),
    "deletes a tree": ("import shutil; shutil.rmtree(directory)", BLOCKED),
    "renames a file": ("import os; os.rename(precious, directory + '/mine')", BLOCKED),
    "makes a directory": ("import os; os.mkdir(directory + '/new')", BLOCKED),
    "makes a link": ("import os; os.link(precious, directory + '/new')", BLOCKED),
    "makes a symbolic link": ("import os; os.symlink('/', directory + '/new')", BLOCKED),
    "makes a named pipe": ("import os; os.mkfifo(directory + '/new')", BLOCKED),
    "changes the rights of a file": ("import os; os.chmod(precious, 0o666)", BLOCKED),
    "changes the time of a file": ("import os; os.utime(precious)", BLOCKED),
    "connects to a socket": ("import socket; socket.create_connection(('127.0.0.1', port))", BLOCKED),
    "ends a process": ("import os; os.kill(victim, 9)", BLOCKED),
    "ends a process by its handle": ("import os, signal; signal.pidfd_send_signal(os.pidfd_open(victim), 9)", BLOCKED),
    "signals its parent": ("import os, signal; os.kill(os.getppid(), signal.SIGUSR1)", BLOCKED),
    "has the kernel signal a process": (
        "import fcntl, os\n"
        "reader, writer = os.pipe()\n"
        "fcntl.fcntl(reader, fcntl.F_SETOWN, victim)\n"
        "fcntl.fcntl(reader, 10, 9)  # F_SETSIG, SIGKILL\n"
        "fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC)\n"
        "os.write(writer, b'x')\n",
        BLOCKED,
    ),
    "forks": ("import os, time\nif os.fork() == 0: time.sleep(600)", BLOCKED),
    "leaves a detached grandchild": (
        "import os, time\n"
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(600)\n    os._exit(0)\n",
        BLOCKED,
    ),
    "starts a program": ("import subprocess; subprocess.Popen(['sleep', '600'])", BLOCKED),
    "starts a program by posix_spawn": ("import os; os.posix_spawn('/bin/sleep', ['sleep', '600'], {})", BLOCKED),
    "becomes another program": ("import os; os.execv('/bin/sh', ['sh', '-c', f'echo x > {directory}/new'])", BLOCKED),
    "runs a shell": ("import os; assert os.system(f'echo x > {directory}/new') == 0", FAILED),
    "writes in a thread": (
        "import threading\nthread = threading.Thread(target=open, args=(directory + '/new', 'w'))\nthread.start()\n"
        "thread.join()",
        BLOCKED,
    ),
    "writes through ctypes": (
        "import ctypes; assert ctypes.CDLL(None).open((directory + '/new').encode(), 0o101, 0o600) >= 0",
        FAILED,
    ),
    "kills through ctypes": ("import ctypes; assert ctypes.CDLL(None).kill(victim, 9) == 0", FAILED),
}

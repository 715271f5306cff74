#!/usr/bin/env python3
"""Make an s390x guest without protected virtualisation have a bounce pool.

Linux calls swiotlb_init() on s390x only in a guest of protected virtualisation, which one that QEMU emulates cannot be.
So, through QEMU's gdbstub, swiotlb_init(true, SWIOTLB_VERBOSE) is called at the entry of arch_mm_preinit(), where boot
memory can still be had; then the guest goes on as if nothing had been.

usage: gdbcall.py SOCKET KALLSYMS (of a guest that QEMU started with -S; of the same kernel, booted with nokaslr)
"""
import socket
import sys
import time

HOOK, CALLED = 'arch_mm_preinit', 'swiotlb_init'
# Numbers of registers as the gdbstub has them: PSW mask, PSW address, then the general ones.
PSW_ADDRESS, GENERAL, REGISTERS = 1, 2, 18


def fail(why):
    raise SystemExit(f'gdbcall: {why}')


class Stub:
    """The gdb remote protocol, as much as is needed of it."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.bytes = b''
        for _ in range(200):
            try:
                self.socket.connect(path)
                return
            except OSError:
                time.sleep(0.05)
        fail(f'no gdbstub at {path}')

    def receive(self):
        while True:
            start = self.bytes.find(b'$')
            end = self.bytes.find(b'#', start)
            if 0 <= start < end and len(self.bytes) >= end + 3:
                packet = self.bytes[start + 1:end]
                self.bytes = self.bytes[end + 3:]
                self.socket.sendall(b'+')
                return packet.decode()
            more = self.socket.recv(4096)
            if not more:
                fail('QEMU went away')
            self.bytes += more

    def send(self, command):
        self.socket.sendall(b'$%s#%02x' % (command.encode(), sum(command.encode()) & 255))

    def ask(self, command):
        self.send(command)
        return self.receive()

    def order(self, command):
        answer = self.ask(command)
        if answer != 'OK':
            fail(f'{command}: {answer or "not known to this QEMU"}')

    def get(self, register):
        return int(self.ask(f'p{register:x}'), 16)

    def put(self, register, value):
        self.order(f'P{register:x}={value:016x}')

    def run_to(self, address):
        answer = self.ask('c')
        while not answer.startswith(('T', 'S')):
            answer = self.receive()
        if self.get(PSW_ADDRESS) != address:
            fail(f'stopped at {self.get(PSW_ADDRESS):#x} and not at {address:#x}')


def addresses(kallsyms):
    found = {}
    with open(kallsyms, encoding='ascii') as lines:
        for line in lines:
            address, _, name = line.split()[:3]
            if name in (HOOK, CALLED):
                found.setdefault(name, int(address, 16))
    for name in (HOOK, CALLED):
        if not found.get(name):
            fail(f'{kallsyms} has no address of {name}')
    return found[HOOK], found[CALLED]


def main(path, kallsyms):
    hook, called = addresses(kallsyms)
    guest = Stub(path)
    guest.ask('qSupported')
    guest.order(f'Z1,{hook:x},2')
    guest.run_to(hook)
    saved = [guest.get(register) for register in range(REGISTERS)]
    guest.put(GENERAL + 2, 1)  # addressing_limit
    guest.put(GENERAL + 3, 1)  # SWIOTLB_VERBOSE; force comes from the command line
    guest.put(GENERAL + 14, hook)  # where it returns to
    guest.put(PSW_ADDRESS, called)
    guest.run_to(hook)
    if guest.get(GENERAL + 15) != saved[GENERAL + 15]:
        fail('the stack is not where it was')
    for register in range(PSW_ADDRESS, REGISTERS):
        guest.put(register, saved[register])
    guest.order(f'z1,{hook:x},2')
    guest.send('D')
    print(f'gdbcall: {CALLED}(true, 1) was called at {HOOK}', file=sys.stderr)


if __name__ == '__main__':
    if len(sys.argv) != 3:
        fail('usage: gdbcall.py SOCKET KALLSYMS')
    main(*sys.argv[1:])

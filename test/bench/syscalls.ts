import { readFileSync } from 'node:fs'
import { hasTool } from '../../src/lab/system-tools.ts'
import type { Testbed } from './testbed.ts'

/** perf(1) counts the system calls of a process while a command runs. Without it these figures are left out. */
export function hasPerf(): boolean {
  return hasTool('perf')
}

let files = 0

/** `argv` goes before the command; `calls` says afterwards how many there were, NaN where the kernel does not let it count. */
export function countedBy(testbed: Testbed, pid: number): { argv: string[]; calls: () => number } {
  const file = testbed.path(`calls-${files++}`)
  const argv = ['perf', 'stat', '-x,', '-o', file, '-e', 'raw_syscalls:sys_enter', '-p', String(pid), '--']
  return { argv, calls: () => readPerf(readFileSync(file, 'utf8')) }
}

/** `1234,,raw_syscalls:sys_enter,…` */
export function readPerf(said: string): number {
  return Number(/^(\d+),[^,]*,raw_syscalls:sys_enter/m.exec(said)?.[1])
}

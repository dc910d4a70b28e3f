import type { Controller, Limits } from '../../core/kit/cgroup-controls.ts'
import type { ServiceSpec } from '../spec.ts'
import type { Ended } from './runtime.ts'

/** Enough for any server; a fork bomb ends here instead of taking the machine. */
export const DEFAULT_PIDS = 4_096

/** What the document holds an instance to; what it does not say is not limited, but for `pids`. */
export function limitsOf({ memoryMb, vcpus, pids }: Pick<ServiceSpec, 'memoryMb' | 'vcpus' | 'pids'>): Limits {
  return {
    ...(memoryMb === 0 ? {} : { memoryBytes: Math.round(memoryMb * 2 ** 20) }),
    ...(vcpus === 0 ? {} : { vcpus }),
    pids: pids ?? DEFAULT_PIDS,
  }
}

/** For people: which keys of the document do not hold here. What it does not ask for is not missed. */
export function unheldText(
  spec: Pick<ServiceSpec, 'memoryMb' | 'vcpus' | 'pids'>,
  unheld: readonly Controller[],
  reason: string,
): string | undefined {
  const asked = [
    ...(spec.memoryMb > 0 && unheld.includes('memory') ? ['memory'] : []),
    ...(spec.vcpus > 0 && unheld.includes('cpu') ? ['vcpus'] : []),
    ...(spec.pids !== undefined && unheld.includes('pids') ? ['pids'] : []),
  ]
  return asked.length === 0 ? undefined : `not limited on this node: ${asked.join(', ')} (${reason})`
}

const SIGKILL_CODE = 137

/** With what the kernel did for want of memory. A shell says of a program that SIGKILL ended: code 137. */
export function withMemory(ended: Ended, oomKills: number, memoryMb: number): Ended {
  if (oomKills === 0) return ended
  const why = `out of memory (${memoryMb === 0 ? 'the memory of the node is full' : `its limit is ${memoryMb} MB`})`
  if (ended.signal === 'SIGKILL' || ended.code === SIGKILL_CODE) return { ...ended, detail: `killed: ${why}` }
  return { ...ended, detail: `${ended.detail}; a process of it was killed: ${why}` }
}

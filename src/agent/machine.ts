import { readFileSync } from 'node:fs'
import { arch, availableParallelism, totalmem } from 'node:os'
import type { AgentConfig } from '../config.ts'
import type { NodeId } from '../core/model/ids.ts'
import type { NodeFacts } from '../orchestrator/spec.ts'

/** What this node offers to its cluster. The configuration overrides what the machine reports. */
export function machineFacts(
  id: NodeId,
  config: AgentConfig,
  current: Pick<NodeFacts, 'addresses' | 'relays' | 'coordinate' | 'runtimes' | 'version'>,
): NodeFacts {
  const { memoryMb, vcpus, labels, location, area } = config
  return {
    id,
    capacity: {
      memoryMb: memoryMb ?? Math.floor(memoryBytes() / 2 ** 20),
      vcpus: vcpus ?? availableParallelism(),
      vgpus: 0,
      vtpus: 0,
      storageMb: 0,
    },
    arch: arch() === 'x64' ? 'amd64' : arch(),
    labels,
    ...(location === undefined ? {} : { location }),
    ...(area === undefined ? {} : { area }),
    ...current,
  }
}

/** The memory this process may use, in bytes. */
export function memoryBytes(): number {
  return Math.min(totalmem(), cgroupLimit())
}

/** In a container the limit is that of its cgroup, v2 or v1; infinite where there is none. */
function cgroupLimit(): number {
  for (const path of ['/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes']) {
    try {
      const limit = Number(readFileSync(path, 'utf8'))
      if (Number.isFinite(limit) && limit > 0) return limit
    } catch {
      // the other version of cgroups, or none
    }
  }
  return Number.POSITIVE_INFINITY
}

import { readFileSync } from 'node:fs'
import { arch, availableParallelism, totalmem } from 'node:os'
import type { AgentConfig } from '../config.ts'
import type { NodeId } from '../core/model/ids.ts'
import type { NodeFacts } from '../orchestrator/spec.ts'

/** What this node tells its cluster it can give; configuration goes before what the machine says of itself. */
export function machineFacts(
  id: NodeId,
  config: AgentConfig,
  told: Pick<NodeFacts, 'addresses' | 'relays' | 'coordinate' | 'runtimes' | 'version'>,
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
    ...told,
  }
}

/** What this process may use at most. */
export function memoryBytes(): number {
  return Math.min(totalmem(), cgroupLimit())
}

/** Inside a container the machine's memory is not ours: cgroup v2, then v1; without a limit, none. */
function cgroupLimit(): number {
  for (const path of ['/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes']) {
    try {
      const limit = Number(readFileSync(path, 'utf8'))
      if (Number.isFinite(limit) && limit > 0) return limit
    } catch {
      // the other version, or no cgroup at all
    }
  }
  return Number.POSITIVE_INFINITY
}

import { arch, availableParallelism } from 'node:os'
import type { AgentConfig } from '../config/schema.ts'
import { memoryBytes } from '../core/kit/memory.ts'
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

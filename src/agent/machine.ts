import { arch, availableParallelism } from 'node:os'
import type { AgentConfig } from '../config/schema.ts'
import { memoryBytes } from '../core/kit/memory.ts'
import type { NodeId } from '../core/model/ids.ts'
import type { Equipment } from './equipment.ts'
import type { NodeFacts } from '../orchestrator/spec.ts'

/** What this node offers to its cluster. The configuration overrides what the machine reports. */
export function machineFacts(
  id: NodeId,
  config: AgentConfig,
  measured: Equipment,
  current: Pick<NodeFacts, 'addresses' | 'relays' | 'coordinate' | 'runtimes' | 'version'>,
): NodeFacts {
  const { memoryMb, vcpus, vgpus, vtpus = 0, storageMb, labels, location, area, costPerHour } = config
  const { bandwidthInKbit = measured.bandwidthKbit, bandwidthOutKbit = measured.bandwidthKbit } = config
  return {
    id,
    capacity: {
      memoryMb: memoryMb ?? Math.floor(memoryBytes() / 2 ** 20),
      vcpus: vcpus ?? availableParallelism(),
      vgpus: vgpus ?? measured.gpus,
      vtpus,
      storageMb: storageMb ?? measured.storageMb,
      ...(bandwidthInKbit === undefined ? {} : { bandwidthInKbit }),
      ...(bandwidthOutKbit === undefined ? {} : { bandwidthOutKbit }),
    },
    arch: arch() === 'x64' ? 'amd64' : arch(),
    labels,
    ...(location === undefined ? {} : { location }),
    ...(area === undefined ? {} : { area }),
    ...(costPerHour === undefined ? {} : { costPerHour }),
    ...current,
  }
}

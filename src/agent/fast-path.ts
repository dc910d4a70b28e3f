import { FastPath, type FastPathFacts } from '../../proxy/kernel/fast-path.ts'
import { systemKernel } from '../../proxy/kernel/kernel.ts'
import { namesOf } from '../../proxy/kernel/rules.ts'
import { instanceCaller } from '../../proxy/flow/flow.ts'
import { isThisMachine } from '../../proxy/socket/dial.ts'
import { MeshError } from '../core/errors.ts'
import type { AgentContext } from './context.ts'
import type { TableSync } from './table-sync.ts'
import type { NodeIdentity } from './node-identity.ts'
import type { Instances } from './instances.ts'
import { splitInstanceId } from '../core/model/ids.ts'

/*
 * Flows between processes of this node through the kernel, if the configuration asks for it (`fastPath`). It begins last: until
 * then the predecessor carries them, or the rows that a killed agent left.
 */
export interface KernelPath {
  readonly fastPath: FastPath | undefined
  /** Everything else serves. */
  readonly begin: () => void
}

/** @throws MeshError CONFIG_INVALID in loopback mode */
export async function openFastPath(
  { life, self, dir, config, clock, log, metrics, predecessor }: AgentContext,
  { vips, own }: NodeIdentity,
  { table }: TableSync,
  instances: Instances,
): Promise<KernelPath> {
  const kernel = systemKernel(dir)
  const { promise: mayBegin, resolve: begin } = Promise.withResolvers<void>()
  life.defer(begin) // what waits for it goes on
  if (!config.fastPath) {
    if (config.mode === 'host' && predecessor === undefined) await removeStale()
    return { fastPath: undefined, begin }
  }
  if (config.mode !== 'host') {
    throw new MeshError('CONFIG_INVALID', {
      faults: ['agent.fastPath: needs host mode (--mode host), which needs root or CAP_NET_ADMIN'],
    })
  }
  const facts: FastPathFacts = {
    self,
    endpointOf: (instance, port, protocol) => instances.endpointOf(instance, port, protocol),
    isDraining: (instance, at) => instances.isDraining(instance, at),
    callers: () => instances.residents().flatMap((instance) => instanceCaller(instance) ?? []),
    forbids: (address: string, port: number) =>
      own.forbids(address, port) || own.forbids(address, port, 'udp') || address.startsWith('169.254.'),
    isThisMachine,
  }
  const mark = `${process.pid}_${clock.wall().toString(36)}`
  const parts = {
    table,
    range: vips,
    interfaces: config.interceptInterfaces,
    facts,
    kernel,
    mayBegin,
    mark,
    clock,
    log: log.child({ part: 'kernel' }),
    metrics,
  }
  const fastPath = life.use(await FastPath.start(parts))
  instances.onReport(({ instance }) => fastPath.refresh(splitInstanceId(instance)?.service))
  return { fastPath, begin }

  /** Removes what a killed agent left: flows would bypass this one. */
  async function removeStale(): Promise<void> {
    const { table } = namesOf(vips, '')
    await kernel.apply(`delete table inet ${table}\n`).catch(() => undefined) // usually there is none
  }
}

import type { ServiceEntry } from '../../src/core/model/change.ts'
import { POLICIES, type ChoiceKey } from '../../src/core/model/choice.ts'
import type { VipIndex } from '../../src/core/model/service.ts'
import type { Instance } from '../../src/core/model/instance.ts'
import { parseName, type ServiceName } from '../../src/core/model/name.ts'

/** An entry of `app.ns.service.ns` with instances on these nodes; its VIPs begin at `vip`. */
export function entryOf(
  id: string,
  parts: { version?: number; nodes?: readonly string[]; vip?: VipIndex; address?: string } = {},
): ServiceEntry {
  const { version = 1, nodes = ['edge/n1'], vip = 0xe0100, address = '10.0.0.1:7472' } = parts
  const [app, appNamespace, name, namespace] = id.split('.') as [string, string, string, string]
  const vips: Partial<Record<ChoiceKey, VipIndex>> = {}
  let next = vip
  for (const instance of ['any', ...nodes.keys()] as const) {
    for (const policy of POLICIES) vips[`${instance}.${policy}`] = next++
  }
  const instances = nodes.map(
    (node, ordinal): Instance => ({ id: `${id}.${ordinal}`, service: id, ordinal, node, state: 'running' }),
  )
  const reaches = [...new Set(nodes)].map((node) => ({ id: node, addresses: [address], relays: [] }))
  const ports = [{ port: 8080, protocol: 'tcp' as const }]
  const service = { id, app, appNamespace, name, namespace, ports, allow: [], vips }
  return { version, service, instances, nodes: reaches }
}

export function nameOf(text: string): ServiceName {
  const parsed = parseName(`${text}.local`, ['local'])
  if (parsed.kind !== 'name') throw new Error(`${text} is no name`)
  return parsed.name
}

/** Everything that is ready to run has run. */
export function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}

import { holdsVip, vipToIPv4, vipToIPv6, type VipRange } from '../../src/core/model/address.ts'
import type { ServiceEntry } from '../../src/core/model/change.ts'
import { choiceOf } from '../../src/core/model/choice.ts'
import { decide, type Family, type LocalFacts } from './decide.ts'
import { type Row, rowName } from './rules.ts'

/** The VIPs and ports of a service that the kernel may carry. */
export function rowsOf(entry: ServiceEntry, range: VipRange, facts: LocalFacts): Row[] {
  const { service, instances } = entry
  if (!instances.some(({ node, state }) => node === facts.self && state === 'running')) return []
  const rows: Row[] = []
  for (const [key, vip] of Object.entries(service.vips)) {
    const choice = choiceOf(key)
    if (choice === undefined || vip === undefined) continue
    for (const [family, address] of addressesOf(vip, range)) {
      for (const { port, protocol } of service.ports) {
        const decision = decide({ service, choice, vip }, { port, protocol }, family, entry, facts)
        if (decision.path === 'user') continue
        const row = { policy: choice.policy, vip, address, family, protocol, port }
        rows.push({ ...row, name: rowName(row), instances: decision.instances })
      }
    }
  }
  return rows
}

function addressesOf(vip: number, range: VipRange): Array<[Family, string]> {
  const v6 = vipToIPv6(range, vip)
  return [
    ...(holdsVip(range, vip) ? [[4, vipToIPv4(range, vip)] as [Family, string]] : []),
    ...(v6 === undefined ? [] : [[6, v6] as [Family, string]]),
  ]
}

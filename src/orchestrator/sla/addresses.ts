import { ipv4ToVip, isAllocatable, parseIPv4, printIPv4, vipRange } from '../../core/model/address.ts'
import { choiceKey, type ChoiceKey } from '../../core/model/choice.ts'
import { Fields, isObject } from './fields.ts'
import { quoted, type Findings } from './findings.ts'

/** The range that documents use; each interception mode maps the same index into its own prefix. */
const RANGE = vipRange('10.16.0.0/12')
/** A range of more addresses than this for one service is a typing error. */
const MAX_REQUESTED = 1_000

export type Addresses = Partial<Record<ChoiceKey, string>>

/** `taken`: every address requested in the document so far, and where. */
export function readAddresses(service: Fields, taken: Map<string, string>, findings: Findings): Addresses {
  const addresses: Addresses = {}
  if (!service.has('addresses')) return addresses
  const fields = Fields.read(service.value('addresses'), ['addresses'], service.at('addresses'), findings)
  if (fields === undefined) return addresses

  const ask = (key: ChoiceKey, address: string, path: string) => {
    const before = taken.get(address)
    if (before === undefined) {
      taken.set(address, path)
      addresses[key] = address
    } else findings.fault(path, `${address} is already requested at ${before}`)
  }
  for (const [name, key] of [
    ['rr_ip', 'any.rr'],
    ['closest_ip', 'any.closest'],
  ] as const) {
    const address = fields.text(name)
    if (address && isUsable(address, fields.at(name), findings)) ask(key, address, fields.at(name))
  }
  for (const [i, value] of fields.list('instances').entries()) {
    if (!isObject(value)) continue // reported already
    const path = `${fields.at('instances')}[${i}]`
    for (const { ordinal, address } of range(value, path, findings)) {
      const key = choiceKey({ instance: ordinal, policy: 'pinned' })
      if (addresses[key] === undefined) ask(key, address, path)
      else findings.fault(path, `instance ${ordinal} already has an address`)
    }
  }
  return addresses
}

/** An address outside our range is a warning, not a fault: documents written for other networks are accepted unchanged. */
function isUsable(address: string, path: string, findings: Findings): boolean {
  if (parseIPv4(address) === undefined) {
    findings.fault(path, `${quoted(address)} is not an IPv4 address`)
    return false
  }
  const index = ipv4ToVip(RANGE, address)
  if (index === undefined) {
    findings.warn(
      path,
      `${address} is outside 10.16.0.0/12; another address is assigned`,
      'use an address in 10.30.0.0/16',
    )
    return false
  }
  if (isAllocatable(index)) return true
  findings.fault(path, `${address} is reserved for the agents`, 'use 10.30.1.0 or a later address')
  return false
}

/** `{from: 2, to: 4, start: 10.30.31.1}`: instance 2 at .1, 3 at .2, 4 at .3. */
function range(value: unknown, path: string, findings: Findings): { ordinal: number; address: string }[] {
  const fields = Fields.read(value, ['instances'], path, findings)
  if (fields === undefined) return []
  const [from, to, start] = [fields.number('from'), fields.number('to'), fields.text('start')]
  if (from === undefined || to === undefined || start === undefined) {
    findings.fault(path, 'needs from, to and start')
    return []
  }
  const count = to - from + 1
  if (count < 1 || count > MAX_REQUESTED) {
    findings.fault(path, `covers ${count} instances; it may cover 1 to ${MAX_REQUESTED}`)
    return []
  }
  if (!isUsable(start, fields.at('start'), findings)) return []
  const first = parseIPv4(start) as number
  return Array.from({ length: count }, (_, i) => ({ ordinal: from + i, address: printIPv4((first + i) >>> 0) })).filter(
    ({ address }) => isUsable(address, fields.at('start'), findings),
  )
}

import { isIPv4, isIPv6 } from 'node:net'
import { readReverse } from '../../../resolver/names.ts'
import { parseIPv4, parseIPv6, printIPv4, printIPv6, vipRange } from '../../../src/core/model/address.ts'
import { allows, readPathRule, RULED_PATHS } from '../../../src/core/model/path-rule.ts'
import type { FuzzTarget } from '../target.ts'

/** Node's own opinion is the measure: what one of the two takes for an address and the other does not could be used to deceive. */
export const ipAddress: FuzzTarget = {
  name: 'ip-address',
  seeds: [
    '127.16.1.2',
    '255.255.255.255',
    '::',
    '2001:db8::ff00:42:8329',
    '::ffff:10.0.0.1',
    '1:2:3:4:5:6:7.8.9.10',
  ].map((text) => Buffer.from(text)),
  run(bytes) {
    const text = bytes.toString('latin1').slice(0, 64)
    const [v4, v6] = [parseIPv4(text), parseIPv6(text)]
    if ((v4 !== undefined) !== isIPv4(text)) throw new Error(`"${text}" is IPv4 for one of two`)
    if ((v6 !== undefined) !== (isIPv6(text) && !text.includes('%')))
      throw new Error(`"${text}" is IPv6 for one of two`)
    if (v4 !== undefined && printIPv4(v4) !== text) throw new Error(`"${text}" is printed as another`)
    const again = v6 === undefined ? undefined : parseIPv6(printIPv6(v6))
    if (String(again) !== String(v6)) throw new Error(`"${text}" is printed as another`)
    return v4 === undefined ? (v6 === undefined ? 'neither' : `IPv6, ${printIPv6(v6).split(':').length} parts`) : 'IPv4'
  },
}

const range = vipRange('127.16.0.0/12')

export const reverseName: FuzzTarget = {
  name: 'reverse-name',
  seeds: ['2.1.16.127.in-addr.arpa', '16.127.in-addr.arpa', `${'0.'.repeat(32)}ip6.arpa`].map((text) =>
    Buffer.from(text),
  ),
  run(bytes) {
    const name = bytes.toString('latin1').toLowerCase()
    const found = readReverse(name, range)
    if (found === undefined) return 'outside'
    if (name !== found.zone && !name.endsWith(`.${found.zone}`)) throw new Error('it lies outside its own zone')
    return `${found.address === undefined ? 'no' : 'an'} address${found.isAbove ? ', above' : ''}`
  },
}

export const pathRule: FuzzTarget = {
  name: 'path-rule',
  seeds: ['any', 'direct-only', 'prefer-relayed', 'no-punched no-reverse'].map((text) => Buffer.from(text)),
  run(bytes) {
    const rule = readPathRule(bytes.toString('latin1'))
    if (rule === undefined) return 'refused'
    const allowed = RULED_PATHS.filter((path) => allows(rule, path))
    if (allowed.length === 0) throw new Error('a rule that nothing can meet')
    return `allows ${allowed.join()}`
  },
}

import { natFromWire, natToWire, readSignal } from '../../../proxy/paths/signals.ts'
import { encodeNatPmp, encodePcp, readAnswer } from '../../../proxy/paths/port-mapping/codec.ts'
import { locationIn, urlAt } from '../../../proxy/paths/port-mapping/ssdp.ts'
import { named, readXml, textOf } from '../../../proxy/paths/port-mapping/xml.ts'
import { isFair } from '../../../proxy/paths/dial-guard.ts'
import { isMeshError } from '../../../src/core/errors.ts'
import { parseHostPort, printHostPort } from '../../../src/core/kit/host-port.ts'
import { printable } from '../../../src/core/kit/printable.ts'
import type { FuzzTarget } from '../target.ts'

const NONCE = 'ab'.repeat(16)
const GATEWAY = '192.168.1.1'
const json = (message: unknown) => Buffer.from(JSON.stringify(message))
const nat = { mapping: 'stable', filtering: 'strict' }

export const signal: FuzzTarget = {
  name: 'signal',
  seeds: [
    json({ type: 'here', relays: [{ url: 'wss://relay.example.org/relay', ms: 12.5 }] }),
    json({ type: 'dial-me', nonce: NONCE, addresses: ['203.0.113.5:7472', '[2001:db8::5]:7472'] }),
    json({ type: 'punch-connect', nonce: NONCE, attempt: 1, address: '203.0.113.5:4000', nat }),
    json({ type: 'punch-accept', nonce: NONCE, attempt: 1, address: '203.0.113.5:4000', nat, heldMs: 3.5 }),
    json({ type: 'punch-sync', nonce: NONCE, attempt: 3 }),
    json({ type: 'punch-refuse', nonce: NONCE, attempt: 3, nat }),
  ],
  run(bytes) {
    try {
      const found = readSignal(bytes.toString('latin1'))
      if ('nat' in found && JSON.stringify(natToWire(natFromWire(found.nat))) !== JSON.stringify(found.nat))
        throw new Error('NAT behavior does not survive the way through the codec')
      return `accepted ${found.type}`
    } catch (error) {
      if (isMeshError(error, 'MESSAGE_INVALID')) return error.cause === undefined ? 'refused' : 'no JSON'
      throw error
    }
  },
}

export const addressToDial: FuzzTarget = {
  name: 'address-to-dial',
  seeds: ['203.0.113.5:7472', '[2001:db8::5]:7472', 'edge.example.org:80', '[::ffff:127.0.0.1]:7480'].map((text) =>
    Buffer.from(text),
  ),
  run(bytes) {
    const text = bytes.toString('latin1')
    const parsed = parseHostPort(text)
    if (parsed === undefined) return 'refused'
    if (printable(text) !== text) throw new Error('an address holds control characters')
    const again = parseHostPort(printHostPort(parsed.host, parsed.port))
    if (again?.port !== parsed.port || again.host !== parsed.host) throw new Error('it is printed as another address')
    return `accepted, ${isFair(text, undefined, []) ? 'fair' : 'unfair'}`
  },
}

const request = { protocol: 'tcp', port: 7472, wanted: 7472, lifetimeSeconds: 3_600 } as const
const pcpAnswer = encodePcp(request, { address: '192.168.1.10', nonce: Buffer.alloc(12, 7) })
pcpAnswer[1] = 0x81
const natPmpAnswer = Buffer.concat([encodeNatPmp(request), Buffer.alloc(4)])
natPmpAnswer[1] = 130

export const portMappingAnswer: FuzzTarget = {
  name: 'port-mapping-answer',
  seeds: [pcpAnswer, natPmpAnswer, Buffer.from('008000000000000ac0a80101', 'hex')],
  run(bytes) {
    const answer = readAnswer(bytes)
    return answer === undefined ? 'refused' : `accepted ${answer.kind}`
  },
}

export const ssdpAnswer: FuzzTarget = {
  name: 'ssdp-answer',
  seeds: [
    Buffer.from(
      [
        'HTTP/1.1 200 OK',
        'ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1',
        `LOCATION: http://${GATEWAY}:49152/rootDesc.xml`,
        '',
        '',
      ].join('\r\n'),
    ),
  ],
  run(bytes) {
    const location = locationIn(bytes, GATEWAY)
    if (location === undefined) return 'refused'
    if (location.hostname !== GATEWAY || location.protocol !== 'http:')
      throw new Error('an answer points somewhere else than to the gateway')
    return 'accepted'
  },
}

export const routerXml: FuzzTarget = {
  name: 'router-xml',
  seeds: [
    '<?xml version="1.0"?><root xmlns="urn:x"><URLBase>http://192.168.1.1:80/</URLBase><service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><controlURL>/ctl</controlURL></service></root>',
    '<s:Envelope><s:Body><s:Fault><detail><errorCode>718</errorCode><errorDescription>&lt;x&#65;&#x42;</errorDescription></detail></s:Fault></s:Body></s:Envelope>',
    '<a><!-- c --><![CDATA[<b>]]><c d="e>f"/></a>',
  ].map((text) => Buffer.from(text)),
  run(bytes) {
    const root = readXml(bytes.toString('utf8'))
    if (root === undefined) return 'refused'
    const services = [...named(root, 'service')].length
    const url = urlAt(textOf(root, 'controlURL') ?? '', GATEWAY, new URL(`http://${GATEWAY}/`))
    if (url !== undefined && url.hostname !== GATEWAY) throw new Error('a description points somewhere else')
    return `accepted, ${Math.min(services, 3)} services, ${url === undefined ? 'no' : 'a'} URL`
  },
}

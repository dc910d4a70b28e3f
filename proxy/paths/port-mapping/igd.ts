import { request } from 'node:http'
import { isIPv4 } from 'node:net'
import type { Mapped, MapRequest } from './codec.ts'
import { urlAt } from './ssdp.ts'
import { escaped, MAX_CHARS, named, readXml, textOf, type Element } from './xml.ts'

/*
 * A router that speaks UPnP (Internet Gateway Device 1 and 2): its page says where its services are, and they are called by SOAP.
 *
 *     GET /rootDesc.xml          ──▶ … <service><serviceType>…WANIPConnection:1</…><controlURL>/ctl/IPConn</…></service> …
 *     POST /ctl/IPConn           ──▶ AddPortMapping, GetExternalIPAddress, DeletePortMapping
 *
 * Every request goes to the gateway's address, whatever a page or an answer names; redirections are not followed.
 */
const SERVICES = /^urn:schemas-upnp-org:service:(?:WANIPConnection:[12]|WANPPPConnection:1)$/
const ANSWER_MS = 2_000
const DESCRIPTION = 'hedgerow'

/** Where it is called. */
export interface Igd {
  readonly control: URL
  readonly service: string
}

/** How a call went. */
export type SoapResult = { ok: true; answer: Element } | { ok: false; code: number; reason: string }

/** `undefined`: nothing there maps ports. */
export async function readIgd(location: URL, signal: AbortSignal): Promise<Igd | undefined> {
  const page = await fetched(location, { method: 'GET' }, signal)
  const description = page?.status === 200 ? readXml(page.text) : undefined
  if (description === undefined) return undefined
  const gateway = location.hostname
  const base = urlAt(textOf(description, 'URLBase') ?? '', gateway) ?? location
  for (const service of named(description, 'service')) {
    const type = textOf(service, 'serviceType') ?? ''
    const control = urlAt(textOf(service, 'controlURL') ?? '', gateway, base)
    if (SERVICES.test(type) && control !== undefined) return { control, service: type }
  }
  return undefined
}

/** ConflictInMappingEntry: somebody else has that port. */
const TAKEN = 718
const SAME_PORT_WANTED = 724
const ONLY_FOR_EVER = 725

export type MapAnswer = { kind: 'mapped'; mapped: Mapped } | { kind: 'refused'; reason: string }

/** `client`: our address inside. `others`: ports outside to try when the wanted one is taken. */
export async function mapByIgd(
  igd: Igd,
  wanted: MapRequest & { client: string; others: readonly number[] },
  signal: AbortSignal,
): Promise<MapAnswer> {
  const { protocol, port, client, others } = wanted
  const ports = [wanted.wanted === 0 ? port : wanted.wanted, ...others]
  let { lifetimeSeconds } = wanted
  let said: SoapResult | undefined
  for (let external = ports.shift(); external !== undefined; ) {
    said = await call(
      igd,
      'AddPortMapping',
      {
        NewRemoteHost: '',
        NewExternalPort: external,
        NewProtocol: protocol.toUpperCase(),
        NewInternalPort: port,
        NewInternalClient: client,
        NewEnabled: 1,
        NewPortMappingDescription: DESCRIPTION,
        NewLeaseDuration: lifetimeSeconds,
      },
      signal,
    )
    if (said.ok) {
      const address = await addressOf(igd, signal)
      // renewed as if it ran out: a router that was started again has forgotten it
      const mapped = {
        protocol,
        port,
        external: { port: external, ...address },
        lifetimeSeconds: wanted.lifetimeSeconds,
        epoch: 0,
      }
      return { kind: 'mapped', mapped }
    }
    if (said.code === ONLY_FOR_EVER && lifetimeSeconds !== 0) lifetimeSeconds = 0
    else if (said.code === SAME_PORT_WANTED && external !== port) external = port
    else if (said.code === TAKEN) external = ports.shift()
    else break
  }
  return { kind: 'refused', reason: said?.ok === false ? said.reason : 'no port is free' }
}

/** Gives a port back; whether it was. */
export async function unmapByIgd(igd: Igd, { protocol, wanted }: MapRequest, signal: AbortSignal): Promise<boolean> {
  const which = { NewRemoteHost: '', NewExternalPort: wanted, NewProtocol: protocol.toUpperCase() }
  return (await call(igd, 'DeletePortMapping', which, signal)).ok
}

async function addressOf(igd: Igd, signal: AbortSignal): Promise<{ address?: string }> {
  const said = await call(igd, 'GetExternalIPAddress', {}, signal)
  const address = said.ok ? (textOf(said.answer, 'NewExternalIPAddress') ?? '') : ''
  return isIPv4(address) ? { address } : {}
}

async function call(
  { control, service }: Igd,
  action: string,
  values: Readonly<Record<string, string | number>>,
  signal: AbortSignal,
): Promise<SoapResult> {
  const inside = Object.entries(values).map(([name, value]) => `<${name}>${escaped(String(value))}</${name}>`)
  const body =
    '<?xml version="1.0"?>\r\n<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" ' +
    's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>' +
    `<u:${action} xmlns:u="${service}">${inside.join('')}</u:${action}></s:Body></s:Envelope>\r\n`
  const headers = { 'Content-Type': 'text/xml; charset="utf-8"', SOAPAction: `"${service}#${action}"` }
  const page = await fetched(control, { method: 'POST', headers, body }, signal)
  if (page === undefined) return { ok: false, code: 0, reason: 'no answer' }
  const answer = readXml(page.text)
  if (page.status === 200 && answer !== undefined) {
    for (const response of named(answer, `${action}Response`)) return { ok: true, answer: response }
  }
  const code = Number.parseInt((answer && textOf(answer, 'errorCode')) ?? '', 10) || page.status
  const words = ((answer && textOf(answer, 'errorDescription')) ?? '').replace(/[^ -~]/g, '').slice(0, 60)
  return { ok: false, code, reason: words === '' ? `error ${code}` : `${words} (${code})` }
}

interface Asked {
  method: 'GET' | 'POST'
  headers?: Readonly<Record<string, string>>
  body?: string
}

/** `undefined` when nothing comes, or too much of it. */
function fetched(
  { hostname, port, pathname, search }: URL,
  { method, headers = {}, body = '' }: Asked,
  signal: AbortSignal,
): Promise<{ status: number; text: string } | undefined> {
  return new Promise((resolve) => {
    const limit = AbortSignal.any([signal, AbortSignal.timeout(ANSWER_MS)])
    const asked = request(
      {
        host: hostname,
        port: port === '' ? 80 : Number(port),
        path: `${pathname}${search}`,
        method,
        headers: { ...headers, 'Content-Length': Buffer.byteLength(body), Connection: 'close' },
        agent: false,
        signal: limit,
      },
      (answer) => {
        const chunks: Buffer[] = []
        let bytes = 0
        answer.on('error', () => resolve(undefined))
        answer.on('data', (chunk: Buffer) => {
          bytes += chunk.length
          if (bytes > MAX_CHARS) asked.destroy()
          else chunks.push(chunk)
        })
        answer.on('end', () => resolve({ status: answer.statusCode ?? 0, text: Buffer.concat(chunks).toString() }))
        answer.on('close', () => resolve(undefined))
      },
    )
    asked.on('error', () => resolve(undefined))
    asked.end(body)
  })
}

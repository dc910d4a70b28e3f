import { isIPv4 } from 'node:net'
import { request } from '../../../src/core/kit/node-http.ts'
import type { Mapped, MapRequest } from './codec.ts'
import { urlAt } from './ssdp.ts'
import { escaped, MAX_CHARS, named, readXml, textOf, type Element } from './xml.ts'

/*
 * A router that speaks UPnP (Internet Gateway Device 1 and 2): its description lists its services, which are called by SOAP.
 *
 *     GET /rootDesc.xml          ──▶ … <service><serviceType>…WANIPConnection:1</…><controlURL>/ctl/IPConn</…></service> …
 *     POST /ctl/IPConn           ──▶ AddPortMapping, GetExternalIPAddress, DeletePortMapping
 *
 * Every request goes to the gateway's own address, whatever a description or an answer names; redirects are not followed.
 */
const SERVICES = /^urn:schemas-upnp-org:service:(?:WANIPConnection:[12]|WANPPPConnection:1)$/
const ANSWER_MS = 2_000
const DESCRIPTION = 'hedgerow'

/** Where the service is called. */
export interface Igd {
  readonly control: URL
  readonly service: string
}

/** The result of one call. */
export type SoapResult = { ok: true; answer: Element } | { ok: false; code: number; reason: string }

/** Reads the description at `location`; `undefined` when it has no service that maps ports. */
export async function readIgd(location: URL, signal: AbortSignal): Promise<Igd | undefined> {
  const page = await fetchPage(location, { method: 'GET' }, signal)
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

/** UPnP error codes. ConflictInMappingEntry: the external port belongs to another mapping. */
const TAKEN = 718
const SAME_PORT_WANTED = 724
/** OnlyPermanentLeasesSupported. */
const ONLY_PERMANENT = 725

export type MapAnswer = { kind: 'mapped'; mapped: Mapped } | { kind: 'refused'; reason: string }

/** `client`: our address inside. `others`: external ports to try when the wanted one is taken. */
export async function mapByIgd(
  igd: Igd,
  wanted: MapRequest & { client: string; others: readonly number[] },
  signal: AbortSignal,
): Promise<MapAnswer> {
  const { protocol, port, client, others } = wanted
  const ports = [wanted.wanted === 0 ? port : wanted.wanted, ...others]
  let { lifetimeSeconds } = wanted
  let result: SoapResult | undefined
  for (let external = ports.shift(); external !== undefined; ) {
    result = await call(
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
    if (result.ok) {
      const address = await addressOf(igd, signal)
      // a permanent lease is renewed as well: a router that restarts forgets it
      const mapped = {
        protocol,
        port,
        external: { port: external, ...address },
        lifetimeSeconds: wanted.lifetimeSeconds,
        epoch: 0,
      }
      return { kind: 'mapped', mapped }
    }
    if (result.code === ONLY_PERMANENT && lifetimeSeconds !== 0) lifetimeSeconds = 0
    else if (result.code === SAME_PORT_WANTED && external !== port) external = port
    else if (result.code === TAKEN) external = ports.shift()
    else break
  }
  return { kind: 'refused', reason: result?.ok === false ? result.reason : 'no port is free' }
}

/** Removes a mapping; false when the router refused. */
export async function unmapByIgd(igd: Igd, { protocol, wanted }: MapRequest, signal: AbortSignal): Promise<boolean> {
  const which = { NewRemoteHost: '', NewExternalPort: wanted, NewProtocol: protocol.toUpperCase() }
  return (await call(igd, 'DeletePortMapping', which, signal)).ok
}

async function addressOf(igd: Igd, signal: AbortSignal): Promise<{ address?: string }> {
  const result = await call(igd, 'GetExternalIPAddress', {}, signal)
  const address = result.ok ? (textOf(result.answer, 'NewExternalIPAddress') ?? '') : ''
  return isIPv4(address) ? { address } : {}
}

async function call(
  { control, service }: Igd,
  action: string,
  values: Readonly<Record<string, string | number>>,
  signal: AbortSignal,
): Promise<SoapResult> {
  const fields = Object.entries(values).map(([name, value]) => `<${name}>${escaped(String(value))}</${name}>`)
  const body =
    '<?xml version="1.0"?>\r\n<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" ' +
    's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>' +
    `<u:${action} xmlns:u="${service}">${fields.join('')}</u:${action}></s:Body></s:Envelope>\r\n`
  const headers = { 'Content-Type': 'text/xml; charset="utf-8"', SOAPAction: `"${service}#${action}"` }
  const page = await fetchPage(control, { method: 'POST', headers, body }, signal)
  if (page === undefined) return { ok: false, code: 0, reason: 'no answer' }
  const answer = readXml(page.text)
  if (page.status === 200 && answer !== undefined) {
    for (const response of named(answer, `${action}Response`)) return { ok: true, answer: response }
  }
  const code = Number.parseInt((answer && textOf(answer, 'errorCode')) ?? '', 10) || page.status
  const description = ((answer && textOf(answer, 'errorDescription')) ?? '').replace(/[^ -~]/g, '').slice(0, 60)
  return { ok: false, code, reason: description === '' ? `error ${code}` : `${description} (${code})` }
}

interface HttpRequest {
  method: 'GET' | 'POST'
  headers?: Readonly<Record<string, string>>
  body?: string
}

/** `undefined` when there is no answer, or too long a one. */
function fetchPage(
  { hostname, port, pathname, search }: URL,
  { method, headers = {}, body = '' }: HttpRequest,
  signal: AbortSignal,
): Promise<{ status: number; text: string } | undefined> {
  return new Promise((resolve) => {
    const limit = AbortSignal.any([signal, AbortSignal.timeout(ANSWER_MS)])
    const sent = request(
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
          if (bytes > MAX_CHARS) sent.destroy()
          else chunks.push(chunk)
        })
        answer.on('end', () => resolve({ status: answer.statusCode ?? 0, text: Buffer.concat(chunks).toString() }))
        answer.on('close', () => resolve(undefined))
      },
    )
    sent.on('error', () => resolve(undefined))
    sent.end(body)
  })
}

import { Agent } from 'node:https'

/**
 * The way out of this network for HTTPS and WebSockets, when it is an HTTP proxy (CONNECT, RFC 9110 §9.3.6).
 *
 * Reads `HTTPS_PROXY` and `NO_PROXY`, in capitals or small letters, as curl does; `undefined`: straight out. Connections are
 * not kept: each was checked for the one it was made for.
 */
export function egressOf(environment: Readonly<Record<string, string | undefined>>): Agent | undefined {
  const proxy = environment['https_proxy'] ?? environment['HTTPS_PROXY']
  if (proxy === undefined || proxy === '') return undefined
  const except = environment['no_proxy'] ?? environment['NO_PROXY']
  return new Agent({
    keepAlive: false,
    proxyEnv: { HTTPS_PROXY: proxy, ...(except === undefined ? {} : { NO_PROXY: except }) },
  })
}

import type { ServiceSpec } from '../spec.ts'

/** Of the ports of its node that a document asks for, those that the node does not give; `allowed`: `first-last`, or `off`. */
export function refusedPorts(ports: ServiceSpec['ports'], allowed: string): number[] {
  const [first = 1, last = 0] = allowed === 'off' ? [] : allowed.split('-').map(Number)
  return ports.flatMap(({ hostPort }) =>
    hostPort === undefined || (hostPort >= first && hostPort <= last) ? [] : [hostPort],
  )
}

/** Why a node does not give them; `undefined`: it does. */
export function refusalOfPorts(ports: ServiceSpec['ports'], allowed: string): string | undefined {
  const [refused] = refusedPorts(ports, allowed)
  return refused === undefined
    ? undefined
    : `host_port ${refused} is not allowed on this node (agent.containers.hostPorts is ${allowed})`
}

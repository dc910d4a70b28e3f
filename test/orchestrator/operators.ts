import t from 'tap'
import type { Role } from '../../src/orchestrator/root/people/roles.ts'
import { mesh, sla } from './mesh.ts'
import { ask } from './v1.ts'

export const PASSWORD = 'correct horse battery'

/** A document of one service, in the namespace of an organisation. */
export function documentOf(namespace: string, service: object = {}) {
  const document = sla({ microservice_name: 'cart', ...service })
  return {
    ...document,
    applications: document.applications.map((app: object) => ({ ...app, application_namespace: namespace })),
  }
}

/** Clusters `ours` of acme and `theirs` of beta, each with a node and a service of its organisation. */
export async function twoOperators() {
  const world = await mesh({ clusters: ['ours', 'theirs'] })
  const admin = (method: string, path: string, body?: unknown) => ask(world, path, { method, body })
  const tokenOf = async (...grants: { role: Role; organisation?: string }[]) =>
    (await admin('POST', '/v1/api-tokens', { name: 'a test', limits: { grants } })).body.token as string
  const nodes = {
    ours: await world.node('n', { cluster: 'ours' }),
    theirs: await world.node('n', { cluster: 'theirs' }),
  }
  for (const [cluster, organisation] of [
    ['ours', 'acme'],
    ['theirs', 'beta'],
  ] as const) {
    t.equal((await admin('POST', '/v1/organisations', { name: organisation })).status, 200)
    t.equal((await admin('PUT', `/v1/clusters/${cluster}/owner`, { organisation })).status, 200)
    t.equal((await admin('POST', '/v1/apps', documentOf(organisation))).status, 200)
  }
  await world.running(2)
  return { world, admin, tokenOf, nodes, [Symbol.asyncDispose]: () => world[Symbol.asyncDispose]() }
}

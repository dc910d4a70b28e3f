import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import type { BrowserContext, Page } from 'playwright-core'
import { buildPage } from '../../.config/page.ts'
import type { OidcOptions } from '../../src/orchestrator/root/people/oidc.ts'
import { mesh, sla, type World } from '../orchestrator/mesh.ts'
import { until } from '../support/until.ts'

/* A real browser before a real root: clusters and nodes on loopback, whose instances only pretend to run. */

export const PASSWORD = 'a long and quiet evening'

/** Two clusters, a shop with something in trouble, and people of two organisations. */
export async function shopMesh(options: { oidc?: OidcOptions } = {}): Promise<World> {
  await buildPage(join(import.meta.dirname, '../../src/page/built'))
  const world = await mesh({ clusters: ['berlin', 'munich'], root: options })
  for (const [cluster, count] of [
    ['berlin', 3],
    ['munich', 2],
  ] as const)
    for (let at = 1; at <= count; at++)
      await world.node(`rack-${at}`, { cluster, memoryMb: 2_048 * at, vcpus: 4, addresses: [`192.0.2.${at}:7472`] })
  await world.known()
  await asked(world, 'POST', '/v1/apps', shop())
  await until(async () => {
    const { items } = (await asked(world, 'GET', '/v1/services')) as {
      items: { replicas: number; running: number }[]
    }
    return items.filter(({ replicas, running }) => replicas === running).length >= SETTLED
  }, 'the shop runs')
  for (const name of ['acme', 'beta']) await asked(world, 'POST', '/v1/organisations', { name })
  const people = [
    ['alice', { role: 'organisation-administrator', organisation: 'acme' }],
    ['victor', { role: 'viewer', organisation: 'beta' }],
  ] as const
  for (const [name, grant] of people)
    await asked(world, 'POST', '/v1/users', {
      name,
      organisation: grant.organisation,
      grants: [grant],
      password: PASSWORD,
    })
  return world
}

/** All but the one that fits nowhere. */
const SETTLED = 5

export function shop() {
  return sla(
    { microservice_name: 'frontend', replicas: 4, port: '8080', connectivity: ['cart', 'search'] },
    { microservice_name: 'cart', replicas: 3, port: '8081' },
    { microservice_name: 'search', replicas: 3, port: '9200' },
    { microservice_name: 'payments', replicas: 2, port: '8082' },
    { microservice_name: 'mailer', replicas: 1, port: '2525' },
    { microservice_name: 'recommender', replicas: 1, memory: 200_000, port: '7000' },
  )
}

/** As the administrator. @throws MeshError when it is refused */
export function asked(world: World, method: string, path: string, body?: unknown): Promise<unknown> {
  const given = body === undefined ? {} : { body }
  return world.api.ask(method as 'GET', path as '/v1/status', given)
}

/** What a page has complained of: errors, refusals by its policy, requests to another place. */
export function complaints(context: BrowserContext, url: string): string[] {
  const told: string[] = []
  context.on('console', (message) => {
    const text = message.text()
    const isAnswer = /Failed to load resource/.test(text) // refusals that are meant; the page says what they are
    if (['error', 'warning'].includes(message.type()) && !isAnswer) told.push(text)
  })
  context.on('weberror', (error) => told.push(error.error().message))
  context.on('request', (request) => {
    if (!request.url().startsWith(url)) told.push(`asks elsewhere: ${request.url()}`)
  })
  return told
}

export async function logIn(page: Page, url: string, user: string): Promise<void> {
  await page.goto(`${url}/ui/`)
  await page.getByLabel('User', { exact: true }).fill(user)
  await page.getByLabel('Password', { exact: true }).fill(PASSWORD)
  await page.keyboard.press('Enter')
  await page.locator('.linkstate.live').waitFor()
}

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
const WCAG = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']

/** What axe finds against WCAG 2.2, levels A and AA: by the debugger, since the page’s policy runs no script of others. */
export async function axeFaults(page: Page, rules: object | readonly string[] = WCAG): Promise<string[]> {
  const session = await page.context().newCDPSession(page)
  try {
    const isThere = await page.evaluate('typeof axe')
    if (isThere === 'undefined') await session.send('Runtime.evaluate', { expression: AXE })
    const { result } = await session.send('Runtime.evaluate', {
      expression: `axe.run(document, { runOnly: ${JSON.stringify(rules)}, resultTypes: ['violations'] }).then(({ violations }) =>
        violations.flatMap(({ id, nodes }) => nodes.map(({ target, any }) => id + ' ' + target + ' ' + (any[0]?.message ?? ''))))`,
      awaitPromise: true,
      returnByValue: true,
    })
    return result.value as string[]
  } finally {
    await session.detach()
  }
}

/** Documents of an app each, as people write them. */
export interface Wanted {
  apps: number
  /** The number of the first app, if not 1. */
  first?: number
  /** In each app. */
  services: number
  replicas?: number
  /** For external services: where they are. */
  origin?: number
  /** Flows go there. */
  isAsked?: true
  checkSeconds?: number
}

export function documentsOf(wanted: Wanted): object[] {
  return appsOf(wanted).map((application) => documentOf([application]))
}

/** All of them in one document. */
export function oneDocumentOf(wanted: Wanted): object {
  return documentOf(appsOf(wanted))
}

export function appIds({ apps, first = 1 }: Pick<Wanted, 'apps' | 'first'>): string[] {
  return Array.from({ length: apps }, (_, app) => `app${first + app}.bench`)
}

function appsOf({ apps, first = 1, services, ...kind }: Wanted): object[] {
  return Array.from({ length: apps }, (_, app) => {
    const microservices = Array.from({ length: services }, (_, i) => serviceOf(`s${i + 1}`, kind))
    return { application_name: `app${first + app}`, application_namespace: 'bench', microservices }
  })
}

function documentOf(applications: object[]): object {
  return { sla_version: 'v2.0', customerID: 'Admin', applications }
}

function serviceOf(
  name: string,
  { replicas = 1, origin, isAsked, checkSeconds }: Omit<Wanted, 'apps' | 'first' | 'services'>,
): object {
  const named = {
    microservice_name: name,
    microservice_namespace: 'prod',
    replicas,
    port: isAsked ? `8080:${origin}` : '8080',
    memory: 16,
    vcpus: 0,
  }
  if (origin === undefined) return { ...named, virtualization: 'process', code: '/bin', cmd: ['sleep', '1'] }
  const check = checkSeconds === undefined ? {} : { check: { type: 'tcp', interval_ms: checkSeconds * 1_000 } }
  return { ...named, virtualization: 'external', code: `127.0.0.1:${origin}`, ...check }
}

/** Documents of an app each, as people write them. */
export interface Wanted {
  apps: number
  /** In each app. */
  services: number
  replicas?: number
  /** For external services: where they are. */
  origin?: number
  checkSeconds?: number
}

export function documentsOf(wanted: Wanted): object[] {
  return appsOf(wanted).map((application) => documentOf([application]))
}

/** All of them in one document. */
export function oneDocumentOf(wanted: Wanted): object {
  return documentOf(appsOf(wanted))
}

export function appIds({ apps }: Pick<Wanted, 'apps'>): string[] {
  return Array.from({ length: apps }, (_, app) => `app${app + 1}.bench`)
}

function appsOf({ apps, services, ...kind }: Wanted): object[] {
  return Array.from({ length: apps }, (_, app) => {
    const microservices = Array.from({ length: services }, (_, i) => serviceOf(`s${i + 1}`, kind))
    return { application_name: `app${app + 1}`, application_namespace: 'bench', microservices }
  })
}

function documentOf(applications: object[]): object {
  return { sla_version: 'v2.0', customerID: 'Admin', applications }
}

function serviceOf(name: string, { replicas = 1, origin, checkSeconds }: Omit<Wanted, 'apps' | 'services'>): object {
  const named = {
    microservice_name: name,
    microservice_namespace: 'prod',
    replicas,
    port: '8080',
    memory: 16,
    vcpus: 0,
  }
  if (origin === undefined) return { ...named, virtualization: 'process', code: '/bin', cmd: ['sleep', '1'] }
  const check = checkSeconds === undefined ? {} : { check: { type: 'tcp', interval_ms: checkSeconds * 1_000 } }
  return { ...named, virtualization: 'external', code: `127.0.0.1:${origin}`, ...check }
}

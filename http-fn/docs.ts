/** `/docs`: openapi.yaml as one page for people. Static HTML, no script, nothing loaded from elsewhere. */
import type { CloseCode, ErrorCode } from "../shared/api.js";
import { CLOSE_CODES } from "../shared/close-codes.js";
import { ERRORS } from "../shared/errors.js";
import {
  METHODS,
  type Contract,
  type OpenApi,
  type OperationObject,
  type Parameter,
  type Ref,
  type Response,
  type Schema,
} from "./contract.js";

const yours = "WEBHOOK_URL";

/** The page. */
export function renderDocs({ document }: Pick<Contract, "document">): string {
  const { info, tags } = document;
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(info.title)}: documentation</title>
<style>${STYLE}</style>
<header>
<h1>${escape(info.title)} <small>${escape(info.version)}</small></h1>
<p class="lead">${inline(info.summary)}</p>
${prose(info.description)}
</header>
<nav>${[...tags.map(({ name }) => name), "schemas", "errors", "close-codes"]
    .map((name) => `<a href="#${name}">${name.replace("-", " ")}</a>`)
    .join(
      " ",
    )} <a href="/openapi.yaml">openapi.yaml</a> <a href="/openapi.json">openapi.json</a></nav>
<main>
${tags.map((tag) => tagSection(document, tag)).join("\n")}
<h2 id="schemas">Schemas</h2>
${Object.entries(document.components.schemas)
  .map(([name, schema]) => schemaSection(name, schema))
  .join("\n")}
<h2 id="errors">Errors</h2>
<p>Every error is an <code>application/problem+json</code> object (RFC 9457) with one of these codes.</p>
${errorSections(document)}
<h2 id="close-codes">Close codes</h2>
<p>How a WebSocket ends, and whether to come back. The platform's status is the one of an invocation whose server closed with the code.</p>
${closeSections(document)}
</main>
</html>
`;
}

function tagSection(
  document: OpenApi,
  tag: { name: string; description: string },
): string {
  const places = [
    ...Object.entries(document.paths),
    // Where they go is the backend's to say.
    ...Object.values(document.webhooks).map((item) => [yours, item] as const),
  ];
  const operations = places.flatMap(([path, item]) =>
    [...METHODS, "options" as const].flatMap((method) => {
      const operation = item[method];
      if (operation === undefined || !operation.tags.includes(tag.name))
        return [];
      const parameters = [
        ...(item.parameters ?? []),
        ...(operation.parameters ?? []),
      ];
      return [
        operationSection(
          document,
          `${method.toUpperCase()} ${path}`,
          operation,
          parameters,
        ),
      ];
    }),
  );
  return `<h2 id="${tag.name}">${capital(tag.name)}</h2>\n<p>${inline(tag.description)}</p>\n${operations.join("\n")}`;
}

function operationSection(
  document: OpenApi,
  name: string,
  operation: OperationObject,
  parameters: (Parameter | Ref)[],
): string {
  const scope = operation["x-scope"];
  const rows = parameters.map((parameter) => {
    const found = resolve<Parameter>(document, parameter);
    return [
      `<code>${escape(found.name)}</code>`,
      found.in,
      typeOf(found.schema),
      inline(found.description),
    ];
  });
  const answers = Object.entries(operation.responses).map(
    ([status, response]) => [
      status,
      inline(resolve<Response>(document, response).description),
    ],
  );
  return `<section id="${operation.operationId}">
<h3>${anchor(operation.operationId)}${escape(operation.summary)}</h3>
<p><code class="route">${escape(name)}</code>${scope === undefined ? "" : ` <span class="scope">scope ${scope}</span>`}</p>
${prose(operation.description ?? "")}
${table(["parameter", "in", "type", "meaning"], rows)}
${table(["answer", "meaning"], answers)}
</section>`;
}

function schemaSection(name: string, schema: Schema): string {
  const parts = [schema, ...(schema.allOf ?? [])];
  const rows = parts.flatMap((part) =>
    Object.entries(part.properties ?? {}).map(([property, value]) => [
      `<code>${escape(property)}</code>${part.required?.includes(property) ? "" : " <small>optional</small>"}`,
      typeOf(value),
      inline(value.description ?? ""),
    ]),
  );
  const includes = parts.flatMap(({ $ref }) =>
    $ref === undefined ? [] : [typeOf({ $ref })],
  );
  const words = Object.entries(schema["x-enumDescriptions"] ?? {}).map(
    ([word, text]) => [`<code>${escape(word)}</code>`, inline(text)],
  );
  const listed = name === "ErrorCode" || name === "CloseCode";
  return `<section id="${name}">
<h3>${anchor(name)}${name} <small>${typeOf({ ...schema, enum: [] })}</small></h3>
${prose(schema.description ?? "")}
${includes.length > 0 ? `<p>Everything of ${includes.join(", ")}, and:</p>` : ""}
${table(["property", "type", "meaning"], rows)}
${listed ? "" : table(["value", "meaning"], words)}
</section>`;
}

function errorSections({ components }: OpenApi): string {
  const texts = components.schemas["ErrorCode"]?.["x-enumDescriptions"] ?? {};
  return (Object.keys(ERRORS) as ErrorCode[])
    .map((code) => {
      const { status, title, retry } = ERRORS[code];
      return `<section id="${code}">
<h3>${anchor(code)}<code>${code}</code> <small>${status} ${escape(title)}</small></h3>
<p>${inline(texts[code] ?? "")}</p>
<p class="retry">${retry ? "The same request may work later." : "The same request will fail again."}</p>
</section>`;
    })
    .join("\n");
}

function closeSections({ components }: OpenApi): string {
  const texts = components.schemas["CloseCode"]?.["x-enumDescriptions"] ?? {};
  return Object.entries(CLOSE_CODES)
    .map(([code, { name, reason, retry, scfStatus }]) => {
      const id: `close-${CloseCode}` = `close-${Number(code) as CloseCode}`;
      return `<section id="${id}">
<h3>${anchor(id)}<code>${code}</code> <small>${name}</small></h3>
<p>${inline(texts[code] ?? "")} Reason “${escape(reason)}”, platform status ${scfStatus}.</p>
<p class="retry">${retry ? "Open a new socket." : "Do not come back by yourself."}</p>
</section>`;
    })
    .join("\n");
}

function resolve<T>(document: OpenApi, value: T | Ref): T {
  if (typeof value !== "object" || value === null || !("$ref" in value))
    return value as T;
  let found: unknown = document;
  for (const part of value.$ref.slice(2).split("/"))
    found = (found as Record<string, unknown>)[part];
  return found as T;
}

/** A type in a few words, with a link to the schema that has a name. */
function typeOf(schema: Schema): string {
  if (schema.$ref !== undefined) {
    const name = schema.$ref.slice(schema.$ref.lastIndexOf("/") + 1);
    return `<a href="#${name}">${name}</a>`;
  }
  if (schema.const !== undefined)
    return `<code>${escape(JSON.stringify(schema.const))}</code>`;
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices !== undefined && schema.type === undefined)
    return choices.map(typeOf).join(" or ");
  if (schema.type === "array")
    return `array of ${schema.items === undefined ? "anything" : typeOf(schema.items)}`;
  const type = [schema.type ?? (schema.properties ? "object" : "anything")]
    .flat()
    .join(" or ");
  const values = schema.enum?.length
    ? `: ${schema.enum.map((value) => `<code>${escape(String(value))}</code>`).join(", ")}`
    : "";
  const range =
    schema.minimum === undefined && schema.maximum === undefined
      ? ""
      : ` ${schema.minimum ?? ""}…${schema.maximum ?? ""}`;
  const fallback =
    schema.default === undefined
      ? ""
      : `, default ${escape(String(schema.default))}`;
  return `${type}${values}${range}${fallback}`;
}

function table(head: string[], rows: string[][]): string {
  if (rows.length === 0) return "";
  const line = (cells: string[], tag: string) =>
    `<tr>${cells.map((cell) => `<${tag}>${cell}</${tag}>`).join("")}</tr>`;
  return `<table><thead>${line(head, "th")}</thead><tbody>${rows.map((row) => line(row, "td")).join("")}</tbody></table>`;
}

/** The little Markdown that openapi.yaml uses: paragraphs, lists, code, bold. */
function prose(text: string): string {
  return text
    .trim()
    .split(/\n{2,}/)
    .filter((block) => block !== "")
    .map((block) =>
      block.startsWith("* ")
        ? `<ul>${block
            .slice(2)
            .split("\n* ")
            .map((item) => `<li>${inline(item)}</li>`)
            .join("")}</ul>`
        : `<p>${inline(block)}</p>`,
    )
    .join("\n");
}

const inline = (text: string): string =>
  escape(text.trim())
    .replace(/`([^`]+)`/g, "<code>$1</code>")
    .replace(/\*\*([^*]+)\*\*/g, "<strong>$1</strong>");

const escape = (text: string): string =>
  text
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;");

const capital = (text: string): string =>
  text.charAt(0).toUpperCase() + text.slice(1);

const anchor = (id: string): string =>
  `<a class="anchor" href="#${id}" aria-label="link">#</a> `;

const STYLE = `
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 18%, transparent); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 3rem; border-bottom: 1px solid var(--line); }
h3 { margin: 2rem 0 .25rem; } small, .retry, .scope { opacity: .7; font-weight: normal; }
.lead { font-size: 1.2rem; margin-top: 0; } nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; }
code { font: .9em ui-monospace, monospace; } .route { font-weight: bold; }
h3, p, li { overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; margin: .75rem 0; font-size: .92rem; display: block; overflow-x: auto; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); }
.anchor { text-decoration: none; opacity: .35; margin-left: -1.1em; } section { scroll-margin-top: 1rem; } section:target { outline: 2px solid; outline-offset: .4rem; }
@media (max-width: 40rem) { .anchor { margin-left: 0; } }
`.trim();

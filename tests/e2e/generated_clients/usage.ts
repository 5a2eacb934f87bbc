// Compiles only if the generated types name every field that a client needs, and tell the two kinds of plans apart.

import type { components, paths } from "./api";

type Schemas = components["schemas"];
type Planned = paths["/uploads"]["post"]["responses"][201]["content"]["application/json"];

export function requests(plan: Planned): [string, string, Record<string, string>][] {
  switch (plan.kind) {
    case "put":
      return [[plan.method, plan.url, plan.headers]];
    case "multipart":
      return plan.parts.flatMap((part) => (part.url && part.headers ? [["PUT", part.url, part.headers]] : []));
  }
}

export function links(plan: Planned): string[] {
  return [plan.s3_key, plan.complete_url, plan.status_url, plan.abort_url, plan.expires_at];
}

export function image(image: Schemas["StoredImage"]): [string, string, number, number | null, number | null] {
  return [image.s3_key, image.url, image.size, image.width, image.height];
}

export function missing(status: Schemas["UploadStatus"]): number[] {
  return (status.parts ?? []).filter((part) => part.url !== undefined).map((part) => part.part_number);
}

export function advice(error: Schemas["Error"]): string {
  return error.code === "invalid_file_type" ? `${error.detail}: ${error.accepted?.join(", ")}` : error.detail;
}
